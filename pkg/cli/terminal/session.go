package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Message is what a session sends; one field is set.
type Message struct {
	Stdin       []byte
	StdinClosed bool
	Size        *nodev1.TerminalSize
	Signal      string
}

// Conn is the stream of an Attach or Exec, opened. Send is called by one
// goroutine at a time.
type Conn interface {
	Send(m Message) error
	Recv() (*nodev1.StreamResponse, error)
	// CloseSend tells that there is nothing more to send.
	CloseSend() error
}

// Session is one connection of the terminal with a container.
type Session struct {
	Streams Streams
	// Stdin says whether In is read, TTY whether the process has a terminal.
	Stdin, TTY bool
	// DetachKeys end the session; only a terminal has them.
	DetachKeys []byte
	// Signals passes signals to this process on to the container's.
	Signals bool
	// OnReady is called once the container runs and its streams are connected.
	OnReady func()

	mu   sync.Mutex // orders Send
	conn Conn
}

// Run takes the session to its end: that of the process, whose exit it returns,
// or the detach keys, for which the error is ErrDetached. The caller ends the
// connection, and with it what still waits for it.
func (s *Session) Run(ctx context.Context, conn Conn) (exit *nodev1.Exit, err error) {
	s.conn = conn
	in, isFile := s.Streams.In.(*os.File)
	raw := s.TTY && s.Stdin && isFile && Is(in)
	if raw {
		restore, rawErr := MakeRaw(in)
		if rawErr != nil {
			return nil, rawErr
		}
		defer func() { err = errors.Join(err, restore()) }()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stopSignals := s.watchSignals(ctx, cancel)
	defer stopSignals()
	defer cancel(nil)
	if s.Stdin {
		// This goroutine may outlive the session: nothing ends a read of a
		// terminal. The process ends with the session's command.
		go s.sendInput(cancel, raw)
	}
	received := make(chan outcome, 1)
	go func() {
		exit, err := s.receive()
		received <- outcome{exit, err}
	}()
	select {
	case o := <-received:
		return o.exit, o.err
	case <-ctx.Done():
		if cause := context.Cause(ctx); errors.Is(cause, ErrDetached) || errors.Is(cause, ErrForced) || errors.Is(cause, ErrHangup) {
			return nil, cause
		}
		o := <-received // the stream ends with the caller's context
		return o.exit, o.err
	}
}

// outcome is what receive ends with.
type outcome struct {
	exit *nodev1.Exit
	err  error
}

func (s *Session) send(m Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.Send(m)
}

// inputSize is how much of stdin goes into one message.
const inputSize = 32 << 10

// sendInput passes stdin on, and its end. In raw mode no key is the end of the
// input: the terminal is gone then.
func (s *Session) sendInput(cancel context.CancelCauseFunc, raw bool) {
	in := s.Streams.In
	if s.TTY {
		in = NewDetacher(in, s.DetachKeys)
	}
	buffer := make([]byte, inputSize)
	for {
		n, err := in.Read(buffer)
		if n > 0 {
			if s.send(Message{Stdin: buffer[:n]}) != nil {
				return // Recv has the reason
			}
		}
		if errors.Is(err, ErrDetached) {
			cancel(ErrDetached)
			return
		}
		if err != nil {
			_ = s.send(Message{StdinClosed: true}) // Recv has the reason of a failure
			if raw {
				cancel(ErrHangup)
			}
			return
		}
	}
}

// receive writes out what the process does until it exits.
func (s *Session) receive() (*nodev1.Exit, error) {
	for {
		m, err := s.conn.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the connection ended before the process did")
		}
		if err != nil {
			return nil, err
		}
		if m.GetReady() && s.OnReady != nil {
			s.OnReady()
		}
		// A reader who has had enough (`| head -1`) does not end the container.
		if out := m.GetStdout(); len(out) > 0 {
			_, _ = s.Streams.Out.Write(out)
		}
		if out := m.GetStderr(); len(out) > 0 {
			_, _ = s.Streams.Err.Write(out)
		}
		if exit := m.GetExit(); exit != nil {
			return exit, nil
		}
	}
}

// ErrForced is the end of a session whose person has had enough: the process of
// the container takes no notice of signals.
var ErrForced = errors.New("forcefully exiting after SIGTERM or SIGINT: the container may go on")

// ErrHangup is the end of a session whose terminal is gone: its window was closed.
var ErrHangup = errors.New("the terminal is gone: the container may go on")

// patience is how many of them are passed on, less one.
const patience = 3

// watchSignals passes on changes of the terminal's size, and signals, until stop
// is called.
func (s *Session) watchSignals(ctx context.Context, end context.CancelCauseFunc) (stop func()) {
	signals := make(chan os.Signal, 128)
	switch {
	case s.Signals:
		signal.Notify(signals)
	case s.TTY:
		// To end at once would leave the person's terminal in raw mode.
		signal.Notify(signals, unix.SIGWINCH, unix.SIGTERM, unix.SIGHUP)
	default:
		signal.Notify(signals, unix.SIGWINCH)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		asked := 0
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-signals:
				if sig == unix.SIGINT || sig == unix.SIGTERM {
					asked++
				}
				if asked >= patience || !s.Signals && sig != unix.SIGWINCH {
					end(ErrForced)
					return
				}
				if s.sendSignal(sig) != nil {
					return // Recv has the reason
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		cancel()
		<-done
	}
}

func (s *Session) sendSignal(sig os.Signal) error {
	number, ok := sig.(unix.Signal)
	if !ok {
		return nil
	}
	switch number {
	case unix.SIGWINCH:
		if !s.TTY {
			return nil
		}
		if size := s.Streams.TerminalSize(); size != nil {
			return s.send(Message{Size: size})
		}
		return nil
	case unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU:
		// SIGURG is how Go's scheduler interrupts goroutines.
		return nil
	default:
	}
	name := unix.SignalName(number)
	if name == "" {
		name = fmt.Sprint(int(number))
	}
	return s.send(Message{Signal: name})
}

// TerminalSize is that of the streams' terminal, or nil.
func (s Streams) TerminalSize() *nodev1.TerminalSize {
	for _, stream := range []any{s.Out, s.In} {
		if width, height, ok := Size(stream); ok && width > 0 && height > 0 {
			return &nodev1.TerminalSize{Width: width, Height: height}
		}
	}
	return nil
}
