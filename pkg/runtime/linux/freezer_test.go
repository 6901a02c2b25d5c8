package linux

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// freezers are the versions of the freezer that this machine has.
func freezers(t *testing.T) map[string]*Cgroups {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for cgroups")
	}
	found := map[string]*Cgroups{}
	own, err := DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	if own.unified {
		found["v2"] = own
	} else if own.HasController("freezer") {
		found["v1"] = own
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		found["v2 beside v1"] = &Cgroups{unified: true, root: "/sys/fs/cgroup/unified"}
	}
	return found
}

// What is frozen stands still, is known to be, and goes on when it is thawed.
func TestFreezer(t *testing.T) {
	for name, c := range freezers(t) {
		t.Run(name, func(t *testing.T) {
			cgroup := "/cri-node-freezer-test-" + strconv.Itoa(os.Getpid())
			dir := c.dir("freezer", cgroup)
			if c.unified {
				dir = c.dir("", cgroup)
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				if err := c.Thaw(cgroup); err != nil {
					t.Error(err)
				}
				_ = cmd.Wait()
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
				t.Fatal(err)
			}
			want := func(frozen bool) {
				t.Helper()
				if got, err := c.Frozen(cgroup); err != nil || got != frozen {
					t.Errorf("frozen: %v, %v, want %v", got, err, frozen)
				}
			}
			want(false)
			for range 2 {
				if err := c.Freeze(t.Context(), cgroup); err != nil {
					t.Fatal(err)
				}
			}
			want(true)
			for range 2 {
				if err := c.Thaw(cgroup); err != nil {
					t.Fatal(err)
				}
			}
			want(false)
			// One that is killed while it is frozen ends when it is thawed, at the latest.
			if err := c.Freeze(t.Context(), cgroup); err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(cmd.Process.Pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := c.Thaw(cgroup); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("it does not end")
			}
			if frozen, err := c.Frozen(cgroup + "/none"); err != nil || frozen {
				t.Errorf("of what is not there: %v, %v", frozen, err)
			}
			if err := c.Thaw(cgroup + "/none"); err != nil {
				t.Error(err)
			}
			if err := c.Freeze(t.Context(), "/"); err == nil {
				t.Error("froze the root")
			}
		})
	}
}
