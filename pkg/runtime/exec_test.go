package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// buffer is a writer that many may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// holds waits until the buffer has a text.
func (b *buffer) holds(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(b.String(), text); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, b.String())
		}
	}
}

// blocked is the stdin of a client that says nothing and does not go.
func blocked(t *testing.T) *io.PipeReader {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

func TestExec(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		c := runningContainer(t, m, handler, "exec", "exec sleep 1000", stdioOptions{})
		t.Run("pipes", func(t *testing.T) { testExecPipes(t, c) })
		t.Run("terminal", func(t *testing.T) { testExecTerminal(t, c) })
		t.Run("ends", func(t *testing.T) { testExecEnds(t, c) })
	})
}

// What kubelet asks of a container that ends meanwhile is no fault of the runtime.
func TestExecInContainerThatEnds(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	c := createdContainer(t, m, "a")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Exec(t.Context(), shell("true"), Streams{})
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "container a ended") {
		t.Errorf("error is %v", err)
	}
}

func testExecPipes(t *testing.T, c *Container) {
	data := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)
	for name, test := range map[string]struct {
		script, out, err string
		stdin            io.Reader
		code             int
	}{
		"streams":                  {script: "echo out; echo err >&2; exit 7", out: "out\n", err: "err\n", code: 7},
		"signal":                   {script: "kill -9 $$", code: 137},
		"no stdin":                 {script: "cat; echo $?", out: "0\n"},
		"stdin to its end":         {script: "sha256sum", stdin: bytes.NewReader(data), out: fmt.Sprintf("%x  -\n", sha256.Sum256(data))},
		"stdin that is not read":   {script: "echo done", stdin: bytes.NewReader(data), out: "done\n"},
		"stdin that does not come": {script: "echo done", stdin: blocked(t), out: "done\n"},
		"stdin is empty":           {script: "cat; echo done", stdin: strings.NewReader(""), out: "done\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr buffer
			code, err := c.Exec(t.Context(), shell(test.script), Streams{Stdin: test.stdin, Stdout: &stdout, Stderr: &stderr})
			if err != nil || code != test.code || stdout.String() != test.out || stderr.String() != test.err {
				t.Errorf("code %d, %v, %q, %q", code, err, stdout.String(), stderr.String())
			}
		})
	}
}

func testExecTerminal(t *testing.T, c *Container) {
	// All output is there, and the stream ends with the process although the
	// client's stdin is open.
	var out buffer
	code, err := c.Exec(t.Context(), shell("tty -s || echo none; i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; exit 9"), Streams{TTY: true, Stdin: blocked(t), Stdout: &out})
	if lines := strings.Count(out.String(), "\r\n"); err != nil || code != 9 || lines != 5000 || strings.Contains(out.String(), "none") {
		t.Errorf("code %d, %v, %d lines", code, err, lines)
	}

	// Sizes, from the first on, and input.
	sizes := make(chan Size, 1)
	sizes <- Size{Width: 101, Height: 41}
	in, write := io.Pipe()
	defer write.Close()
	var talk buffer
	done := make(chan error, 1)
	go func() {
		// crun 1.8 may start the process before the terminal has a size, which it gets
		// from us then; until it has one busybox's stty fails.
		const size = "i=0; until stty size 2>/dev/null || [ $i = 100 ]; do i=$((i+1)); sleep 0.1; done; "
		code, err := c.Exec(t.Context(), shell(size+"read x; echo got $x; stty size; exit 3"), Streams{TTY: true, Stdin: in, Stdout: &talk, Resize: sizes})
		if err == nil && code != 3 {
			err = fmt.Errorf("code %d", code)
		}
		done <- err
	}()
	talk.holds(t, "41 101\r\n")
	sizes <- Size{Width: 102, Height: 42}
	sizes <- Size{Width: 102, Height: 42} // taken only after the first was set
	sizes <- Size{Width: 102, Height: 42}
	if _, err := io.WriteString(write, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	talk.holds(t, "got hello\r\n42 102\r\n")

	// Ctrl-C reaches the process.
	in, write = io.Pipe()
	defer write.Close()
	var interrupted buffer
	go func() {
		interrupted.holds(t, "up")
		_, _ = io.WriteString(write, "\x03")
	}()
	if code, err := c.Exec(t.Context(), shell("echo up; sleep 1000"), Streams{TTY: true, Stdin: in, Stdout: &interrupted}); err != nil || code != 130 {
		t.Errorf("code %d, %v", code, err)
	}
}

// failingWriter is a client that has gone.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("gone") }

func testExecEnds(t *testing.T, c *Container) {
	for _, tty := range []bool{false, true} {
		// With the context, and all of its processes with it.
		var out buffer
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("cause")
		go func() {
			out.holds(t, "up")
			cancel(cause)
		}()
		start := time.Now()
		_, err := c.Exec(ctx, shell("sleep 4242 & echo up; sleep 4242"), Streams{TTY: tty, Stdin: blocked(t), Stdout: &out})
		if !errors.Is(err, cause) || time.Since(start) > 20*time.Second {
			t.Errorf("terminal %v: %v after %v", tty, err, time.Since(start))
		}
		var left buffer
		if _, err := c.Exec(t.Context(), shell("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo \" $f\"; done | grep 'sleep 424[2]'"), Streams{Stdout: &left}); err != nil || left.String() != "" {
			t.Errorf("terminal %v: %v, left %q", tty, err, left.String())
		}

		// With the process, although something else has its output open.
		start = time.Now()
		code, err := c.Exec(t.Context(), shell("trap '' HUP; sleep 20 & exit 4"), Streams{TTY: tty, Stdout: &out})
		if d := time.Since(start); err != nil || code != 4 || d > drainTime+10*time.Second {
			t.Errorf("terminal %v: code %d, %v after %v", tty, code, err, d)
		}

		// A client that has gone does not keep the process waiting for room.
		code, err = c.Exec(t.Context(), shell("cat /dev/zero; exit 0"), Streams{TTY: tty, Stdout: failingWriter{}})
		if err != nil || code == 1 {
			t.Errorf("terminal %v: code %d, %v", tty, code, err)
		}

		if _, err := c.Exec(t.Context(), shell(""), Streams{TTY: tty}); err != nil {
			t.Errorf("terminal %v: nobody wants anything: %v", tty, err)
		}
		process := shell("")
		process.Args = []string{"/nonexistent"}
		if _, err := c.Exec(t.Context(), process, Streams{TTY: tty, Stdin: blocked(t), Stdout: &out}); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
			t.Errorf("terminal %v: error is %v", tty, err)
		}
	}
}
