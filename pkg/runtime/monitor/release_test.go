package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// waitingInit makes a container whose init waits at a FIFO as runc's does.
func (n *node) waitingInit(t *testing.T, id string) ReleaseRequest {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "exec.fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	result := n.create(n.request(id, "printf 0 > "+fifo+"; exec sleep 1000"))
	executable, err := result.Process.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return ReleaseRequest{FIFO: fifo, Init: result.Process, Executable: executable}
}

func (n *node) requireReleased(t *testing.T, req ReleaseRequest) {
	t.Helper()
	n.eventually("the program is executed", func() bool {
		now, err := req.Init.Executable()
		return err == nil && now != req.Executable
	})
}

func TestRelease(t *testing.T) {
	n := startNode(t)
	req := n.waitingInit(t, "a")
	for range 2 { // the second time it has happened
		if err := n.s.Release(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	n.requireReleased(t, req)
	if _, err := os.Lstat(req.FIFO); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO is still there: %v", err)
	}
}

// Whoever read the init's byte was killed before it could say so.
func TestReleaseWhoseByteIsLost(t *testing.T) {
	n := startNode(t)
	req := n.waitingInit(t, "a")
	if b, err := os.ReadFile(req.FIFO); err != nil || string(b) != "0" {
		t.Fatalf("%q, %v", b, err)
	}
	n.requireReleased(t, req)
	if err := n.s.Release(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseOfTheDead(t *testing.T) {
	n := startNode(t)
	req := n.waitingInit(t, "a")
	if err := req.Init.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.exit("a")
	if err := n.s.Release(t.Context(), req); err == nil {
		t.Error("a dead init was let go")
	}
	if err := n.s.Release(t.Context(), ReleaseRequest{FIFO: "relative"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("relative FIFO: %v", err)
	}
}
