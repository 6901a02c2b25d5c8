package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// verbs is a person at a shell, who has the binary.
type verbs struct{ *env }

// onVerbs uses the shared node, and removes what containers the test leaves.
func onVerbs(t *testing.T) *verbs {
	t.Helper()
	v := &verbs{onShared(t)}
	t.Cleanup(func() {
		if ids := strings.Fields(v.run("ps", "-aq", "--filter", "kubernetes=false").out); len(ids) > 0 {
			v.run(append([]string{"rm", "-fv"}, ids...)...)
		}
		if names := strings.Fields(v.run("volume", "ls", "-q").out); len(names) > 0 {
			v.run(append([]string{"volume", "rm"}, names...)...)
		}
	})
	return v
}

// said is what a command printed, and its exit code.
type said struct {
	out, err string
	code     int
}

// command is the binary with arguments. IMAGE stands for the test's image.
func (v *verbs) command(args ...string) *exec.Cmd {
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "IMAGE", shared.image)
	}
	cmd := exec.CommandContext(v.Context(), shared.bin.Node, args...)
	if v.Context().Err() != nil { // a cleanup
		cmd = exec.Command(shared.bin.Node, args...)
	}
	cmd.Env = append(os.Environ(), "CRI_NODE_ADDRESS="+v.node.Endpoint(), "FROM_CLIENT=here")
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a command to its end.
func (v *verbs) run(args ...string) said {
	v.Helper()
	return v.pipe("", args...)
}

// pipe runs a command with something to read.
func (v *verbs) pipe(stdin string, args ...string) said {
	v.Helper()
	cmd := v.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	return said{code: v.codeOf(cmd.Run()), out: out.String(), err: errs.String()}
}

func (v *verbs) codeOf(err error) int {
	v.Helper()
	exit := new(exec.ExitError)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	v.Fatal(err)
	return -1
}

// ok runs a command that must work, and returns what it printed.
func (v *verbs) ok(args ...string) string {
	v.Helper()
	got := v.run(args...)
	if got.code != 0 {
		v.Fatalf("%v: exit code %d\n%s%s", args, got.code, got.out, got.err)
	}
	return strings.TrimRight(got.out, "\n")
}

// eventually waits until a command prints what it should.
func (v *verbs) eventually(want string, args ...string) {
	v.Helper()
	v.waitFor(strings.Join(args, " ")+" to print "+want, func() bool { return strings.Contains(v.run(args...).out, want) })
}

func (v *verbs) waitFor(what string, done func() bool) {
	v.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			v.Fatalf("waited in vain for %s", what)
		}
	}
}

// console is a terminal with a command in it.
type console struct {
	*verbs
	cmd *exec.Cmd
	tty *os.File

	mu   sync.Mutex
	seen bytes.Buffer
	at   int // what has been expected so far
	done chan struct{}
}

// open runs a command in a terminal of 80 columns and 24 rows.
func (v *verbs) open(args ...string) *console {
	v.Helper()
	s := &console{verbs: v, cmd: v.command(args...), done: make(chan struct{})}
	s.cmd.Env = append(s.cmd.Env, "TERM=xterm") // whatever runs the tests has
	tty, err := pty.StartWithSize(s.cmd, &pty.Winsize{Cols: 80, Rows: 24})
	v.must(err)
	s.tty = tty
	go func() {
		defer close(s.done)
		buffer := make([]byte, 4096)
		for {
			n, err := tty.Read(buffer)
			s.mu.Lock()
			s.seen.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil { // EIO: nobody has the other end any more
				return
			}
		}
	}()
	v.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		tty.Close()
		<-s.done
	})
	return s
}

// text is what was seen, from a place on.
func (s *console) text(from int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.seen.Bytes()[from:])
}

// expect waits until text appears, after that which was expected before.
func (s *console) expect(text string) {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if i := strings.Index(s.text(s.at), text); i >= 0 {
			s.at += i + len(text)
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%q does not appear after %q", text, s.text(0))
		}
	}
}

// send types.
func (s *console) send(keys string) {
	s.Helper()
	_, err := s.tty.WriteString(keys)
	s.must(err)
}

// code waits for the command's end.
func (s *console) code() int {
	s.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case err := <-ended:
		return s.codeOf(err)
	case <-time.After(20 * time.Second):
		s.Fatalf("the command does not end; it has printed %q", s.text(0))
		return -1
	}
}
