package runtime

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// attached is an attach under way.
type attached struct {
	stdin       *io.PipeWriter
	out, errors buffer
	sizes       chan Size
	cancel      context.CancelCauseFunc
	done        chan error
}

// attach begins one and waits until it is there.
func attach(t *testing.T, c *Container, tty bool) *attached {
	t.Helper()
	a := &attached{sizes: make(chan Size), done: make(chan error, 1)}
	in, stdin := io.Pipe()
	t.Cleanup(func() { _ = stdin.Close() })
	a.stdin = stdin
	ctx, cancel := context.WithCancelCause(t.Context())
	a.cancel = cancel
	go func() {
		a.done <- c.Attach(ctx, Streams{Stdin: in, Stdout: &a.out, Stderr: &a.errors, TTY: tty, Resize: a.sizes})
	}()
	select {
	case a.sizes <- Size{Width: 77, Height: 22}: // taken when the attach stands
	case err := <-a.done:
		t.Fatal(err)
	}
	return a
}

func (a *attached) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(a.stdin, text); err != nil {
		t.Fatal(err)
	}
}

func (a *attached) ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-a.done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the attach does not end")
		return nil
	}
}

func TestAttach(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		t.Run("once", func(t *testing.T) {
			c := runningContainer(t, m, handler, "once", "echo old; cat; echo err >&2; exit 6", stdioOptions{stdin: true, once: true})
			log := func() string { return logOf(t, c) }
			for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log(), "old") && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			a := attach(t, c, false)
			a.say(t, "hello")
			if err := a.stdin.Close(); err != nil {
				t.Fatal(err)
			}
			if err := a.ends(t); err != nil || a.out.String() != "hello" || a.errors.String() != "err\n" {
				t.Errorf("%v, output is %q and %q", err, a.out.String(), a.errors.String())
			}
			<-c.Exited()
			if s := c.Status(); s.ExitCode != 6 {
				t.Errorf("exit code %d", s.ExitCode)
			}
			if err := c.Attach(t.Context(), Streams{}); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("exited: %v", err)
			}
		})
		t.Run("terminal", func(t *testing.T) {
			c := runningContainer(t, m, handler, "tty", "while read x; do echo got $x; stty size; done", stdioOptions{stdin: true, tty: true})
			a, b := attach(t, c, true), attach(t, c, true)
			for _, x := range []*attached{b, a} {
				x.sizes <- Size{Width: 91, Height: 31}
				x.sizes <- Size{Width: 91, Height: 31} // taken when the first was set
			}
			a.say(t, "one\n")
			for _, x := range []*attached{a, b} {
				x.out.holds(t, "got one\r\n31 91\r\n")
			}
			gone := errors.New("gone")
			a.cancel(gone)
			if err := a.ends(t); !errors.Is(err, gone) {
				t.Error(err)
			}
			b.say(t, "two\n")
			b.out.holds(t, "got two\r\n")
			b.say(t, "\x04") // the terminal's end of file
			if err := b.ends(t); err != nil || b.errors.String() != "" {
				t.Errorf("%v, %q", err, b.errors.String())
			}
		})
		t.Run("no stdin", func(t *testing.T) {
			c := runningContainer(t, m, handler, "plain", "cat; exec sleep 1000", stdioOptions{})
			a := attach(t, c, false)
			if err := unix.Kill(m.monitor.PID(), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := a.ends(t); !errdefs.IsUnavailable(err) {
				t.Errorf("monitor died: %v", err)
			}
			broken := make(chan error, 1)
			go func() { broken <- c.Attach(t.Context(), Streams{Stdout: failingWriter{}}) }()
			if err := c.Stop(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			<-broken
		})
		t.Run("client fails", func(t *testing.T) {
			c := runningContainer(t, m, handler, "talks", "while :; do echo talk; sleep 0.1; done", stdioOptions{})
			if err := c.Attach(t.Context(), Streams{Stdout: failingWriter{}}); err == nil || !strings.Contains(err.Error(), "gone") {
				t.Errorf("error is %v", err)
			}
		})
		t.Run("slow client", func(t *testing.T) {
			c := runningContainer(t, m, handler, "flood", "head -c 30000000 /dev/zero; exec sleep 1000", stdioOptions{})
			release := make(chan struct{})
			done := make(chan error, 1)
			go func() { done <- c.Attach(t.Context(), Streams{Stdout: stuckWriter(release)}) }()
			time.Sleep(3 * time.Second)
			close(release)
			select {
			case err := <-done:
				if !errors.Is(err, ErrSlowClient) {
					t.Errorf("error is %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("the slow client is not dropped")
			}
		})
	})
}

// stuckWriter is a client that reads nothing until the channel is closed.
type stuckWriter chan struct{}

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w
	return len(p), nil
}
