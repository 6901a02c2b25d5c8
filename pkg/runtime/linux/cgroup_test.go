package linux

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a process whose first thread has ended.
func TestMain(m *testing.M) {
	if os.Getenv("LEADERLESS") != "" {
		time.AfterFunc(time.Minute, func() { os.Exit(0) })
		endFirstThread()
	}
	os.Exit(m.Run())
}

// endFirstThread occupies one thread after the other until it is on the first.
func endFirstThread() {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // of this thread alone
	}
	go endFirstThread()
	select {}
}

func newTestCgroup(t *testing.T) (*Cgroups, string) {
	t.Helper()
	c, err := DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	name := "/cri-node-test-" + strconv.Itoa(os.Getpid())
	if err := c.Create(name); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Kill(context.WithoutCancel(t.Context()), name), c.Remove(name)); err != nil {
			t.Error(err)
		}
	})
	return c, name
}

// A process whose first thread has ended looks like a zombie and is none.
func TestKillWithoutFirstThread(t *testing.T) {
	c, name := newTestCgroup(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), "LEADERLESS=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	for _, dir := range c.dirs(name) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for s, err := ReadStat(cmd.Process.Pid); s.State != 'Z'; s, err = ReadStat(cmd.Process.Pid) {
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := c.Kill(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	select {
	case <-waited:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		t.Fatal("the process lives")
	}
	if err := c.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// A privileged container can make a cgroup below its own threaded, and must be
// removable all the same.
func TestProcessesOfThreaded(t *testing.T) {
	c, name := newTestCgroup(t)
	var root string
	for _, dir := range c.dirs(name) {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err == nil {
			root = dir
		}
	}
	if root == "" {
		t.Skip("no cgroup v2 on this machine")
	}
	below := filepath.Join(root, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeControl(filepath.Join(below, "cgroup.type"), "threaded"); err != nil {
		t.Skip(err)
	}
	if _, err := c.Processes(name); err != nil {
		t.Error(err)
	}
	if err := c.Remove(name); err != nil {
		t.Error(err)
	}
}

func TestRemoveEmpty(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c, err := DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	const name = "/cri-node-test-empty"
	if err := c.Create(name + "/below"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Remove(name) })
	for _, step := range []struct {
		cgroup string
		gone   bool
	}{{name, false}, {name + "/below", true}, {name, true}, {name, true}, {"/", false}, {"", false}} {
		if gone := c.RemoveEmpty(step.cgroup); gone != step.gone {
			t.Errorf("%q is gone: %v", step.cgroup, gone)
		}
	}
	if c.Exists(name) {
		t.Error("it is still there")
	}
}
