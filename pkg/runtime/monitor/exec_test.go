package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// execRequest runs a shell script as a detached runtime would: it leaves the
// process behind and its pid in the pid file.
func (n *node) execRequest(t *testing.T, script string) ExecRequest {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	return ExecRequest{
		Argv:    []string{testExe(t), "fake-runtime", "create", "--pid-file", pidFile, "--", "/bin/sh", "-c", script},
		PidFile: pidFile, Env: os.Environ(),
	}
}

// execIn runs one exec and returns its output.
func (n *node) execIn(ctx context.Context, t *testing.T, req ExecRequest) (unix.WaitStatus, string, error) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	status, execErr := n.s.Exec(ctx, req, [3]*os.File{null, w, w})
	if err := errors.Join(w.Close(), r.SetReadDeadline(time.Now().Add(5*time.Second))); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return status, string(b), execErr
}

// TestExecCancelledEarly: what the runtime has started before it could say so ends
// with the exec, whatever sessions it has begun.
func TestExecCancelledEarly(t *testing.T) {
	n := startNode(t)
	const script = "setsid sh -c 'setsid sleep 4243 & sleep 4243 & (sleep 4243 &) ; touch %s; sleep 4243' & wait"
	for range 10 {
		up := filepath.Join(t.TempDir(), "up")
		req := n.execRequest(t, "")
		req.Argv = []string{"/bin/sh", "-c", fmt.Sprintf(script, up)}
		ctx, cancel := context.WithCancel(t.Context())
		var canceller sync.WaitGroup
		canceller.Go(func() {
			n.eventually("the process runs", func() bool { _, err := os.Stat(up); return err == nil })
			cancel()
		})
		if _, _, err := n.execIn(ctx, t, req); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		canceller.Wait()
		if left := commandsWith(t, "sleep\x004243"); len(left) > 0 {
			t.Fatalf("left: %q", left)
		}
	}
}

// commandsWith lists the processes whose command line has a text in it.
func commandsWith(t *testing.T, text string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), text) {
			found = append(found, file+" "+string(b))
		}
	}
	return found
}

func TestExecStatus(t *testing.T) {
	n := startNode(t)
	for script, want := range map[string]unix.WaitStatus{
		"cat; echo out; echo err >&2; exit 7": 7 << 8,
		"kill -9 $$":                          unix.WaitStatus(unix.SIGKILL),
		"true":                                0,
	} {
		status, out, err := n.execIn(t.Context(), t, n.execRequest(t, script))
		if err != nil || status != want {
			t.Errorf("%q: status %#x, %v", script, status, err)
		}
		if strings.Contains(script, "echo") && out != "out\nerr\n" {
			t.Errorf("%q: output %q", script, out)
		}
	}
	// Ends before the runtime has, and many at once.
	var wait sync.WaitGroup
	for i := range 100 {
		req := n.execRequest(t, fmt.Sprintf("exit %d", i))
		wait.Go(func() {
			if status, _, err := n.execIn(t.Context(), t, req); err != nil || status.ExitStatus() != i {
				t.Errorf("exit %d: status %#x, %v", i, status, err)
			}
		})
	}
	wait.Wait()
}

// A detached process goes on when nobody waits for it any more.
func TestExecDetached(t *testing.T) {
	n := startNode(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	req := n.execRequest(t, fmt.Sprintf("touch %s; until test -e %s; do sleep 0.02; done; touch %s", file("begun"), file("go"), file("done")))
	req.Detached = true
	exists := func(name string) bool {
		_, err := os.Stat(file(name))
		return err == nil
	}
	await := func(name string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !exists(name); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no %s", name)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, err := n.execIn(ctx, t, req)
		ended <- err
	}()
	await("begun")
	// The runtime, which has begun it, may not have ended yet.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(req.PidFile); err == nil && len(b) > 0 || time.Now().After(deadline) {
			break
		}
	}
	time.Sleep(100 * time.Millisecond)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gets %v", err)
	}
	if err := os.WriteFile(file("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await("done")
}

func TestExecOfFailingRuntime(t *testing.T) {
	n := startNode(t)
	for name, req := range map[string]ExecRequest{
		"exit":        {Argv: []string{"/bin/sh", "-c", "exit 3"}, PidFile: "/nonexistent/pid"},
		"no pid file": {Argv: []string{"/bin/true"}, PidFile: "/nonexistent/pid"},
		"no binary":   {Argv: []string{"/nonexistent/runtime"}, PidFile: "/nonexistent/pid"},
	} {
		_, _, err := n.execIn(t.Context(), t, req)
		if _, ok := errors.AsType[*CreateError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]ExecRequest{
		"relative binary":   {Argv: []string{"true"}, PidFile: "/p"},
		"relative pid file": {Argv: []string{"/bin/true"}, PidFile: "p"},
		"nothing":           {PidFile: "/p"},
	} {
		if _, _, err := n.execIn(t.Context(), t, req); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A timeout kills the process, its children and what was orphaned in its
// session, before the call returns.
func TestExecTimeout(t *testing.T) {
	n := startNode(t)
	marks := t.TempDir()
	script := fmt.Sprintf("(sleep 1001 & echo $! > %[1]s/orphan); sleep 1002 & echo $! > %[1]s/child; mv %[1]s/child %[1]s/ready; sleep 1003", marks)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for range 1000 {
			if _, err := os.Stat(filepath.Join(marks, "ready")); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if _, _, err := n.execIn(ctx, t, n.execRequest(t, script)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, name := range []string{"orphan", "ready"} {
		b, err := os.ReadFile(filepath.Join(marks, name))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		if s, err := linux.ReadStat(pid); err == nil && s.State != 'Z' {
			t.Errorf("%s (%d) outlived the timeout", name, pid)
		}
	}
}

// What a process leaves behind holds its output, not the call.
func TestExecBackgroundChild(t *testing.T) {
	n := startNode(t)
	req := n.execRequest(t, "sleep 1004 & echo $!; exit 5")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	status, err := n.s.Exec(t.Context(), req, [3]*os.File{null, w, w})
	if err := errors.Join(err, w.Close()); err != nil || status.ExitStatus() != 5 {
		t.Fatal(status, err)
	}
	b := make([]byte, 20)
	k, err := r.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:k])))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the child of a process that ended by itself was killed: %v", err)
	}
}

func TestExecWhenTheMonitorDies(t *testing.T) {
	n := startNode(t)
	marks := t.TempDir()
	req := n.execRequest(t, "touch "+marks+"/ready; exec sleep 1005")
	go func() {
		for range 1000 {
			if _, err := os.Stat(filepath.Join(marks, "ready")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		n.killMonitor()
	}()
	if _, _, err := n.execIn(t.Context(), t, req); !errors.Is(err, ErrMonitorLost) {
		t.Errorf("error is %v", err)
	}
	b, err := os.ReadFile(req.PidFile)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
