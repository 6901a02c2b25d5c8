package infra

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The init must stay, ignore what a container may send it, reap what is
// orphaned to it, and die of SIGKILL.
func TestInitReapsOrphans(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a pid namespace")
	}
	dir := t.TempDir()
	if err := Install(dir); err != nil {
		t.Fatal(err)
	}
	// The shell becomes the init by exec, with a child that forks a grandchild
	// and leaves it behind.
	script := `(sh -c 'sleep 0.2 & exit 0'; sleep 0.1) & exec ` + filepath.Join(dir, initPath)
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	children := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "task", strconv.Itoa(cmd.Process.Pid), "children")
	deadline := time.Now().Add(10 * time.Second)
	for {
		b, err := os.ReadFile(children)
		if err != nil {
			t.Fatalf("the init is gone: %v", err)
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "comm"))
		if len(b) == 0 && string(comm) == "init\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %q still has children %q", comm, b)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGKILL {
		t.Fatalf("ended by %v", cmd.ProcessState)
	}
}
