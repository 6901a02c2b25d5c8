package linux

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	tail := strings.Repeat(" 0", 17)
	for name, test := range map[string]struct {
		in   string
		want Stat
		bad  bool
	}{
		"plain":            {in: "12 (sh) S 1 12 34 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 777" + tail, want: Stat{State: 'S', PPID: 1, Session: 34, StartTime: 777}},
		"hostile name":     {in: "12 (a) R 9 (b) Z 1 12 34 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 5", want: Stat{State: 'Z', PPID: 1, Session: 34, StartTime: 5}},
		"no command":       {in: "12 sh S 1", bad: true},
		"too few":          {in: "12 (sh) S 1 2", bad: true},
		"not a start time": {in: "12 (sh) S 1 12 34 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 x", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(test.in))
			if (err != nil) != test.bad || !test.bad && got != test.want {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
}

// start runs a shell command; its end is the test's.
func start(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestProcessIdentity(t *testing.T) {
	cmd := start(t, "exec sleep 60")
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("FindProcess = %+v, %v", p, err)
	}
	stranger := Process{PID: p.PID, StartTime: p.StartTime + 1}
	if stranger.Alive() {
		t.Error("a process with another start time counts as alive")
	}
	if err := stranger.Signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to another process with the same pid: %v", err)
	}
	if p.StartedAfter(time.Now()) || !p.StartedAfter(time.Now().Add(-time.Hour)) {
		t.Error("StartedAfter is wrong about a process of now")
	}
	if (Process{}).Alive() {
		t.Error("no process is alive")
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if p.Alive() {
		t.Error("alive after its end")
	}
}

// The exit of a process is told from its zombie, and from its pidfd when it
// has been reaped, by whoever asks.
func TestExitStatusOfAnother(t *testing.T) {
	cmd := start(t, "exit 42")
	p := Process{PID: cmd.Process.Pid}
	s, err := ReadStat(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	p.StartTime = s.StartTime
	pidfd, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if gone, err := PollPidfd(pidfd, 10*time.Second); err != nil || !gone {
		t.Fatalf("PollPidfd = %v, %v", gone, err)
	}
	if status, ok := p.ExitStatus(pidfd); !ok || status.ExitStatus() != 42 {
		t.Fatalf("of the zombie: %v, %v", status, ok)
	}
	_ = cmd.Wait()
	status, ok := p.ExitStatus(pidfd)
	if !ok {
		t.Skip("the kernel does not keep the status of a reaped process (before 6.15)")
	}
	if status.ExitStatus() != 42 {
		t.Fatalf("of the reaped process: %v", status)
	}
}

// KillTree reaches children, and what was orphaned in the session, and leaves
// alone whoever has the leader's number after that.
func TestKillTree(t *testing.T) {
	marks := t.TempDir()
	cmd := start(t, "sleep 1001 & echo $! > "+filepath.Join(marks, "child")+
		"; (sh -c 'sleep 1002 & echo $! > "+filepath.Join(marks, "orphan")+"; exit') ; touch "+filepath.Join(marks, "ready")+"; wait")
	waitFor(t, func() bool { _, err := os.Stat(filepath.Join(marks, "ready")); return err == nil })
	root, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// A stranger with the leader's pid: nothing of "its session" may die.
	if err := KillTree(root.PID, Process{}); err != nil {
		t.Fatal(err)
	}
	if !root.Alive() {
		t.Fatal("killed a process that only has the number of another")
	}
	if err := KillTree(root.PID, root); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, name := range []string{"child", "orphan"} {
		b, err := os.ReadFile(filepath.Join(marks, name))
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		waitFor(t, func() bool { s, err := ReadStat(pid); return err != nil || s.State == 'Z' })
	}
}

// A process that ends late, as one does that is not given a processor, is waited
// for: here it is frozen.
func TestKillTreeLate(t *testing.T) {
	for kind, c := range freezers(t) {
		t.Run(kind, func(t *testing.T) {
			name := "/cri-node-late-" + strconv.Itoa(os.Getpid())
			dir := c.dir("freezer", name)
			if c.unified {
				dir = c.dir("", name)
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(dir) })
			cmd := start(t, "exec sleep 1005")
			t.Cleanup(func() { _ = c.Thaw(name) }) // or its end is not seen
			root, err := FindProcess(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(root.PID)), 0); err != nil {
				t.Fatal(err)
			}
			if err := c.Freeze(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			thaw := time.AfterFunc(time.Second, func() { _ = c.Thaw(name) })
			defer thaw.Stop()
			if err := KillTree(0, root); err != nil {
				t.Error(err)
			}
			if s, err := ReadStat(root.PID); err == nil && s.State != 'Z' {
				t.Errorf("the process is in state %c", s.State)
			}
		})
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}

func TestCgroups(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for cgroups")
	}
	c, err := DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	name := "/cri-node-test-" + strconv.Itoa(os.Getpid())
	child := name + "/a/b"
	if err := c.Create(child); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Kill(context.Background(), name); _ = c.Remove(name) })
	cmd := start(t, "sleep 1003 & exec sleep 1004")
	for _, dir := range c.dirs(child) {
		if err := writeControl(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := c.Processes(name); err != nil || len(pids) == 0 {
		t.Fatalf("Processes = %v, %v", pids, err)
	}
	if stats, err := c.Stats(child); err != nil || stats.MemoryUsage == nil || stats.CPUNanoseconds == nil {
		t.Fatalf("Stats = %+v, %v", stats, err)
	}
	if err := c.Remove(name); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("removal of a cgroup in use: %v", err)
	}
	if err := c.Kill(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := c.Remove(name); err != nil {
		t.Fatal(err)
	}
	if c.Exists(name) {
		t.Fatal("still there")
	}
	for _, root := range []string{"/", "", "/..", "/a/.."} {
		if c.Remove(root) == nil || c.Kill(t.Context(), root) == nil {
			t.Errorf("%q was not taken for the root", root)
		}
	}
}
