package infra

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// containerInit is a command run by the init in a pid namespace.
func containerInit(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a pid namespace")
	}
	dir := filepath.Join(t.TempDir(), "infra")
	if err := Install(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(ContainerInit(dir), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	return cmd
}

// The init ends as its command does, and finds it as a shell would.
func TestContainerInitEnds(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$0 $*\"\nexit 6\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args     []string
		path     string
		code     int
		out, err string
	}{
		"exit code":     {args: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, code: 7, out: "out\n", err: "err\n"},
		"signal":        {args: []string{"/bin/sh", "-c", "kill -KILL $$"}, code: 137},
		"arguments":     {args: []string{script, "a b", ""}, code: 6, out: script + " a b \n"},
		"path":          {args: []string{"script"}, path: "/nowhere:/etc/passwd:" + filepath.Dir(script), code: 6, out: script + " \n"},
		"not found":     {args: []string{"no-such-command"}, code: 127, err: "no-such-command: not found"},
		"no such path":  {args: []string{"/no/such"}, code: 127, err: "/no/such: not found"},
		"not to be run": {args: []string{"/etc/passwd"}, code: 126, err: "permission denied"},
		"empty":         {args: []string{""}, code: 127, err: "not found"},
		"nothing":       {code: 127, err: "no command"},
		"long path":     {args: []string{"sh", "-c", "exit 3"}, path: "/" + strings.Repeat("x", 5000) + ":/bin", code: 3},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := containerInit(t, tc.args...)
			if tc.path != "" {
				cmd.Env = []string{"PATH=" + tc.path}
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if _, ok := errors.AsType[*exec.ExitError](err); !ok {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != tc.code || stdout.String() != tc.out || !strings.Contains(stderr.String(), tc.err) {
				t.Errorf("code %d, output %q and %q", got, stdout.String(), stderr.String())
			}
		})
	}
}

// Signals go to the command, and orphans do not stay.
func TestContainerInitReapsAndForwards(t *testing.T) {
	cmd := containerInit(t, "sh", "-c", `mount -t proc proc /proc
		trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM
		(sh -c 'sleep 0.05 & exit 0') ; echo ready
		while :; do sleep 0.02; grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null && echo zombie; done`)
	var out buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "ready")
	time.Sleep(300 * time.Millisecond) // the orphan ends
	from := out.String()
	for _, s := range []struct {
		signal syscall.Signal
		text   string
	}{{syscall.SIGUSR1, "usr1"}, {syscall.SIGTERM, "term"}} {
		if err := cmd.Process.Signal(s.signal); err != nil {
			t.Fatal(err)
		}
		out.wait(t, s.text)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("code %d", got)
	}
	if rest := strings.TrimPrefix(out.String(), from); strings.Contains(rest, "zombie") {
		t.Errorf("zombies stay:\n%s", rest)
	}
}

// buffer is written and read at the same time.
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

func (b *buffer) wait(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(b.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, b.String())
		}
	}
}
