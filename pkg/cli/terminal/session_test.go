package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// fakeConn is a daemon that answers from a list, and remembers what it got.
type fakeConn struct {
	ctx     context.Context
	answers chan *nodev1.StreamResponse
	mu      sync.Mutex
	stdin   bytes.Buffer
	signals []string
	closed  chan struct{}
}

func (c *fakeConn) Send(m Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stdin.Write(m.Stdin)
	if m.Signal != "" {
		c.signals = append(c.signals, m.Signal)
		c.answers <- &nodev1.StreamResponse{Exit: &nodev1.Exit{Code: 143}}
	}
	if m.StdinClosed {
		close(c.closed)
	}
	return nil
}

func (c *fakeConn) CloseSend() error { return nil }

func (c *fakeConn) Recv() (*nodev1.StreamResponse, error) {
	select {
	case r, ok := <-c.answers:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

func newFake(t *testing.T) *fakeConn {
	return &fakeConn{ctx: t.Context(), answers: make(chan *nodev1.StreamResponse, 16), closed: make(chan struct{})}
}

func TestSession(t *testing.T) {
	c := newFake(t)
	var out, errs bytes.Buffer
	ready := false
	s := &Session{
		Streams: Streams{In: strings.NewReader("input"), Out: &out, Err: &errs}, Stdin: true,
		OnReady: func() { ready = true },
	}
	go func() {
		<-c.closed // all of stdin, and its end
		c.answers <- &nodev1.StreamResponse{Ready: true}
		c.answers <- &nodev1.StreamResponse{Stdout: []byte("out")}
		c.answers <- &nodev1.StreamResponse{Stderr: []byte("err")}
		c.answers <- &nodev1.StreamResponse{Exit: &nodev1.Exit{Code: 7}}
	}()
	exit, err := s.Run(t.Context(), c)
	if err != nil || exit.GetCode() != 7 || out.String() != "out" || errs.String() != "err" || !ready {
		t.Errorf("%v, %v, %q, %q, %v", exit, err, out.String(), errs.String(), ready)
	}
	if c.stdin.String() != "input" {
		t.Errorf("the daemon got %q", c.stdin.String())
	}
}

func TestSessionDetaches(t *testing.T) {
	c := newFake(t)
	s := &Session{Streams: Streams{In: strings.NewReader("ls\n\x10\x11"), Out: io.Discard, Err: io.Discard}, Stdin: true, TTY: true, DetachKeys: []byte("\x10\x11")}
	if exit, err := s.Run(t.Context(), c); !errors.Is(err, ErrDetached) {
		t.Errorf("%v, %v", exit, err)
	}
	if c.stdin.String() != "ls\n" {
		t.Errorf("the daemon got %q", c.stdin.String())
	}
}

func TestSessionBreaks(t *testing.T) {
	c := newFake(t)
	close(c.answers)
	s := &Session{Streams: Streams{Out: io.Discard, Err: io.Discard}}
	if _, err := s.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "before the process did") {
		t.Errorf("%v", err)
	}
}

func TestSessionSignals(t *testing.T) {
	c := newFake(t)
	s := &Session{Streams: Streams{Out: io.Discard, Err: io.Discard}, Signals: true}
	s.OnReady = func() {
		if err := unix.Kill(unix.Getpid(), unix.SIGUSR2); err != nil {
			t.Error(err)
		}
	}
	c.answers <- &nodev1.StreamResponse{Ready: true}
	exit, err := s.Run(t.Context(), c)
	if err != nil || exit.GetCode() != 143 || len(c.signals) == 0 || c.signals[0] != "SIGUSR2" {
		t.Errorf("%v, %v, %v", exit, err, c.signals)
	}
}

// TestSessionHangup: a closed window does not leave a command behind that waits
// for a container for ever.
func TestSessionHangup(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	c := newFake(t)
	s := &Session{Streams: Streams{In: slave, Out: io.Discard, Err: io.Discard}, Stdin: true, TTY: true}
	s.OnReady = func() {
		if err := master.Close(); err != nil {
			t.Error(err)
		}
	}
	c.answers <- &nodev1.StreamResponse{Ready: true}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c.ctx = ctx
	if _, err := s.Run(ctx, c); !errors.Is(err, ErrHangup) {
		t.Errorf("%v", err)
	}
}
