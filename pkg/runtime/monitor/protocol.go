package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
)

// The wire contract. The monitor listens on <Dir>/monitor.sock, a stream
// socket of mode 0600, and talks to user 0 alone (SO_PEERCRED).
//
//	frame  = length (4 bytes, big endian) message (JSON, length bytes)
//	file descriptors of a frame travel as SCM_RIGHTS with its length
//
//	daemon                                        monitor
//	  | hello {version}              id 1            |
//	  |--------------------------------------------->|
//	  |            {version, pid}    id 1            |
//	  |<---------------------------------------------|
//	  |            event {id, exit}                  |  one for each container
//	  |<---------------------------------------------|  not yet forgotten
//	  | create {…}                   id 2            |
//	  |--------------------------------------------->|
//	  | list                         id 3            |  calls overlap and are
//	  |--------------------------------------------->|  answered in any order
//	  |            {containers}      id 3            |
//	  |<---------------------------------------------|
//	  | cancel {call 2}              id 4            |  kills the OCI runtime
//	  |--------------------------------------------->|
//	  |            error             id 2            |
//	  |<---------------------------------------------|
//	  |            event {id, exit}                  |  whenever one exits
//	  |<---------------------------------------------|
//
// A message with an op and an id is a call, with an id alone an answer, with
// an op alone an event. Versions are equal or nothing but hello and upgrade is
// answered; those two never change, so that a newer daemon can always put its
// own binary in an older monitor's place.
//
// An attach takes a connection of its own: hello, then attach {id, stdin,
// stdout, stderr} answered by {} and one end of a socket pair for each stream
// asked for. The streams are raw bytes; the monitor copies to them what it
// formats into the log and drops a client that does not read, so that attach
// never slows a container. Shutting down the writing side of stdin ends it,
// which with StdinOnce closes the container's stdin, and so does the end of the
// connection. When the container's output is complete and delivered, or the
// client is dropped, its streams end and event attach-end says why.
const protocolVersion = 1

// The calls.
const (
	opHello      = "hello"
	opUpgrade    = "upgrade"
	opCreate     = "create"
	opExec       = "exec" // with the three stdio descriptors
	opRelease    = "release"
	opCancel     = "cancel"
	opReopen     = "reopen"
	opResize     = "resize"
	opCloseStdin = "close-stdin"
	opForget     = "forget"
	opList       = "list"
	opTTY        = "tty"      // answers with the pty master of a container
	opGiveTTY    = "give-tty" // brings the pty master to a new monitor
	opAttach     = "attach"   // answers with the client's ends of the streams
	opAmend      = "amend"    // brings the exit status that a monitor lost
	opShutdown   = "shutdown"
)

// The events.
const (
	eventExit        = "exit"
	eventStdinClosed = "stdin-closed"
	eventAttachEnd   = "attach-end" // with an error, unless it is complete
)

// message is a frame's content.
type message struct {
	Call  uint64          `json:"call,omitempty"`
	Op    string          `json:"op,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error *wireError      `json:"error,omitempty"`
	// FDs counts the file descriptors that travel with the frame.
	FDs int `json:"fds,omitempty"`

	fds []int
}

type helloBody struct {
	Version int `json:"version"`
	PID     int `json:"pid,omitempty"`
}

type upgradeBody struct {
	Exe string `json:"exe"`
}

type cancelBody struct {
	Call uint64 `json:"call"`
}

// idBody is the argument of the calls that need an id and little else.
type idBody struct {
	ID     string `json:"id"`
	Width  uint16 `json:"width,omitempty"`
	Height uint16 `json:"height,omitempty"`
	Status uint32 `json:"status,omitempty"`
}

type listBody struct {
	Containers []ContainerState `json:"containers"`
}

// wireError is an error on the wire: a class that maps to a sentinel.
type wireError struct {
	Class   string       `json:"class,omitempty"`
	Message string       `json:"message"`
	Create  *CreateError `json:"create,omitempty"`
}

// errVersion is the answer to a hello of another version.
var errVersion = errors.New("monitor speaks another version of the protocol")

var errorClasses = []struct {
	class string
	err   error
}{
	{"not-found", ErrNotFound},
	{"exists", ErrExists},
	{"invalid", ErrInvalid},
	{"state", ErrState},
	{"version", errVersion},
	{"slow", ErrSlow},
}

// toWire turns an error into what travels.
func toWire(err error) *wireError {
	w := &wireError{Message: err.Error()}
	if create, ok := errors.AsType[*CreateError](err); ok {
		w.Create = create
	}
	for _, c := range errorClasses {
		if errors.Is(err, c.err) {
			w.Class = c.class
		}
	}
	return w
}

// remoteError is an error that came over the wire.
type remoteError struct {
	message string
	class   error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.class }

// fromWire is the inverse of toWire.
func fromWire(w *wireError) error {
	if w.Create != nil {
		return w.Create
	}
	e := &remoteError{message: w.Message}
	for _, c := range errorClasses {
		if c.class == w.Class {
			e.class = c.err
		}
	}
	return e
}

// decode reads a call's argument or an answer.
func decode[T any](raw json.RawMessage) (v T, err error) {
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%w: decode message body: %w", ErrInvalid, err)
	}
	return v, nil
}
