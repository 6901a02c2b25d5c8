package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// attachConn and execConn make the streams of the daemon ones of a session.
type (
	attachConn struct {
		nodev1.Containers_AttachClient
	}
	execConn struct {
		nodev1.Containers_ExecClient
	}
)

func (c attachConn) Send(m terminal.Message) error {
	return c.Containers_AttachClient.Send(&nodev1.AttachRequest{Stdin: m.Stdin, StdinClosed: m.StdinClosed, Size: m.Size, Signal: m.Signal})
}

func (c execConn) Send(m terminal.Message) error {
	return c.Containers_ExecClient.Send(&nodev1.ExecRequest{Stdin: m.Stdin, StdinClosed: m.StdinClosed, Size: m.Size, Signal: m.Signal})
}

// The exit codes of docker for what is not the container's own doing.
const (
	exitDaemon        = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// startError is the error of a process that could not be started, with the exit
// code that says why.
func startError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*client.ExitError](err); ok {
		return err
	}
	return &client.ExitError{Code: startCode(err.Error(), exitDaemon), Err: err}
}

// startCode finds out from the words of an OCI runtime whether the command was
// not found or could not be executed.
func startCode(message string, other int) int {
	message = strings.ToLower(message)
	contains := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(message, w) {
				return true
			}
		}
		return false
	}
	switch {
	case contains("executable file not found", "executable file `", "no such file or directory") && contains("exec", "start", "cannot run"):
		return exitNotFound
	case contains("permission denied", "is a directory", "exec format error", "not a directory") && contains("exec", "start", "cannot run"):
		return exitNotExecutable
	}
	return other
}

// exitStatus is how a command ends whose container's process did.
func exitStatus(exit *nodev1.Exit) error {
	if exit.GetError() != "" {
		code := int(exit.GetCode())
		if code == 0 {
			code = startCode(exit.GetError(), exitDaemon)
		}
		return &client.ExitError{Code: code, Err: errors.New(exit.GetError())}
	}
	if exit.GetCode() == 0 {
		return nil
	}
	return &client.ExitError{Code: int(exit.GetCode())}
}

// attachment is a connection to a container's streams.
type attachment struct {
	container             string
	stdin, stdout, stderr bool
	start, tty            bool
	detachKeys            []byte
	signals               bool
	streams               terminal.Streams
	onReady               func()
}

// run attaches until the container's process ends or the person leaves; then
// detached is set.
func (a attachment) run(ctx context.Context, n *client.Node) (exit *nodev1.Exit, detached bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.Containers.Attach(ctx)
	if err != nil {
		return nil, false, err
	}
	open := &nodev1.AttachOpen{Container: a.container, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, Start: a.start}
	if a.tty {
		open.Size = a.streams.TerminalSize()
	}
	if err := stream.Send(&nodev1.AttachRequest{Open: open}); err != nil {
		_, err = stream.Recv() // it has the reason
		return nil, false, err
	}
	session := terminal.Session{
		Streams: a.streams, Stdin: a.stdin, TTY: a.tty, DetachKeys: a.detachKeys, Signals: a.signals, OnReady: a.onReady,
	}
	return ended(session.Run(ctx, attachConn{stream}))
}

// ended sorts the ways a session ends.
func ended(exit *nodev1.Exit, err error) (*nodev1.Exit, bool, error) {
	if errors.Is(err, terminal.ErrDetached) {
		fmt.Fprintln(os.Stderr, "\r\nread escape sequence")
		return nil, true, nil
	}
	return exit, false, err
}
