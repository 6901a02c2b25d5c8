package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// A container that is renewed has its files, its log and its id, and nothing of
// its last life.
func TestRenew(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		script := "echo life; [ -e /seen ] && { echo again; exec sleep 1000; }; echo x >/seen; exit 7"
		c := runningContainer(t, m, handler, "renewed", script, stdioOptions{})
		first := c.Status()
		<-first.Exited()
		for round := uint32(1); round <= 2; round++ {
			if err := c.Renew(t.Context(), scriptOptions(c, script, stdioOptions{})); err != nil {
				t.Fatal(err)
			}
			s := c.Status()
			if s.State != Created || s.Restarts != round || s.ExitCode != 0 || s.Reason != "" || !s.FinishedAt.IsZero() || s.Renewing {
				t.Fatalf("renewed: %+v", s)
			}
			select {
			case <-c.Exited():
				t.Fatal("it has exited, it says")
			default:
			}
			if err := c.Renew(t.Context(), scriptOptions(c, script, stdioOptions{})); !errdefs.IsFailedPrecondition(err) {
				t.Fatalf("renewed while created: %v", err)
			}
			// News of the last life are no news.
			m.HandleEvent(eventOf(first))
			if s := c.Status(); s.State != Created {
				t.Fatalf("an old exit made it %v", s.State)
			}
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); strings.Count(logOf(t, c), "again") < int(round); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("it does not go on in round %d:\n%s", round, logOf(t, c))
				}
			}
			if err := c.Stop(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if s := c.Status(); s.State != Exited || s.ExitCode != 137 {
				t.Fatalf("stopped: %+v", s)
			}
		}
		if got := strings.Count(logOf(t, c), "life"); got != 3 {
			t.Errorf("the log tells of %d lives:\n%s", got, logOf(t, c))
		}
	})
}

func logHolds(t *testing.T, c *Container, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(logOf(t, c), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in the log:\n%s", text, logOf(t, c))
		}
	}
}

// Whoever made it attach before it is started misses nothing, in any life.
func TestAttachBeforeStart(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		for _, tty := range []bool{false, true} {
			stdio := stdioOptions{stdin: true, tty: tty}
			id := map[bool]string{false: "early", true: "early-tty"}[tty]
			c := waitingContainer(t, m, handler, id, "echo first; read x; echo got $x", stdio)
			for range 2 {
				a := attach(t, c, tty)
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				a.say(t, "word\n")
				if err := a.ends(t); err != nil {
					t.Error(err)
				}
				out := strings.ReplaceAll(a.out.String(), "\r", "")
				if !strings.HasPrefix(out, "first\n") && !strings.HasPrefix(out, "word\nfirst\n") || !strings.HasSuffix(out, "got word\n") {
					t.Errorf("tty %v: output is %q", tty, out)
				}
				<-c.Exited()
				if err := c.Renew(t.Context(), scriptOptions(c, "echo first; read x; echo got $x", stdio)); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// What a renewal has made that fails goes, and the container is as it was.
func TestRenewFails(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		c := runningContainer(t, m, handler, "fails", "exit 3", stdioOptions{})
		<-c.Exited()
		before := *c.Status()
		bad := scriptOptions(c, "exit 0", stdioOptions{})
		bad.Spec.Process.Args = []string{"/no/such/program"}
		bad.Spec.Mounts = append(bad.Spec.Mounts, bad.Spec.Mounts[0])
		bad.Spec.Mounts[len(bad.Spec.Mounts)-1].Type = "nosuchfs"
		if err := c.Renew(t.Context(), bad); err == nil {
			t.Fatal("no error")
		}
		s := c.Status()
		if s.State != Exited || s.ExitCode != 3 || s.Renewing || s.Restarts != 0 || !s.FinishedAt.Equal(before.FinishedAt) {
			t.Errorf("after a failure: %+v", s)
		}
		if m.config.Cgroups.Exists(s.Cgroup) {
			t.Error("a cgroup is left")
		}
		states, err := m.monitor.List(t.Context())
		if err != nil || len(states) > 0 {
			t.Errorf("the monitor has %v, %v", states, err)
		}
		if err := c.Renew(t.Context(), scriptOptions(c, "exit 4", stdioOptions{})); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-c.Exited()
		if s := c.Status(); s.ExitCode != 4 {
			t.Errorf("at last: %+v", s)
		}
	})
}

// The daemon or the monitor may die at any point of a renewal: the container has
// exited then, or is Created; nothing is half there, and it can be renewed.
func TestRenewInterrupted(t *testing.T) {
	t.Run("before and after the monitor's part", func(t *testing.T) {
		m := newTestManager(t, t.TempDir(), &fakeRootfs{})
		c := exitedContainer(t, m, "a")
		for _, point := range []string{"noted", "created"} {
			if err := c.noteRenewal(CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			var process linux.Process
			if point == "created" {
				runtime, err := c.driver()
				if err != nil {
					t.Fatal(err)
				}
				result, err := m.monitor.Create(t.Context(), c.createRequest(t.Context(), runtime, createOptions(), false))
				if err != nil {
					t.Fatal(err)
				}
				process = result.Process
			}
			// The next daemon.
			next := NewManager(m.config)
			if err := next.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := next.Recover(t.Context(), m.monitor); err != nil {
				t.Fatal(err)
			}
			again, err := next.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			if s := again.Status(); s.State != Exited || s.Renewing || s.ExitCode != 137 || s.Restarts != 0 {
				t.Errorf("%s: %+v", point, s)
			}
			if states, err := m.monitor.List(t.Context()); err != nil || len(states) > 0 || process.PID != 0 && process.Alive() {
				t.Errorf("%s: the monitor has %v, %v", point, states, err)
			}
		}
		if err := c.change(func(s *Status) { s.Renewing = false }); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("monitor", func(t *testing.T) {
		m := newTestManager(t, t.TempDir(), &fakeRootfs{})
		c := exitedContainer(t, m, "a")
		killed := false
		m.config.Rootfs = &fakeRootfs{mounting: func() {
			if !killed {
				killed = true
				if err := unix.Kill(m.monitor.PID(), unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}}
		err := c.Renew(t.Context(), createOptions())
		s := c.Status()
		if err == nil && s.State != Created || err != nil && (s.State != Exited || s.Renewing) {
			t.Fatalf("%v, %+v", err, s)
		}
		if err != nil {
			if err := c.Renew(t.Context(), createOptions()); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("removal", func(t *testing.T) {
		m := newTestManager(t, t.TempDir(), &fakeRootfs{})
		c := exitedContainer(t, m, "a")
		removed := make(chan error, 1)
		m.config.Rootfs = &fakeRootfs{mounting: func() {
			go func() { removed <- m.Remove(t.Context(), "a") }()
		}}
		if err := c.Renew(t.Context(), createOptions()); err != nil {
			t.Fatal(err)
		}
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		if left := leftovers(t, m, "a"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if err := c.Renew(t.Context(), createOptions()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("renewed what was removed: %v", err)
		}
	})
}

// exitedContainer returns one that was killed.
func exitedContainer(t *testing.T, m *Manager, id string) *Container {
	t.Helper()
	c := createdContainer(t, m, id)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// After a reboot the directories and the root file system are brought back.
func TestRenewAfterReboot(t *testing.T) {
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot")
	setBoot := func(id string) {
		if err := os.WriteFile(boot, []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setBoot("one")
	t.Setenv("CRI_NODE_BOOT_ID_PATH", boot)
	rootfs := &fakeRootfs{}
	m := newTestManager(t, dir, rootfs)
	exitedContainer(t, m, "a")
	if err := os.RemoveAll(m.stateDir("a")); err != nil {
		t.Fatal(err)
	}
	rootfs.mounted.Store(0)
	setBoot("two")
	if err := m.monitor.Forget(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	m.forget("a")
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Recover(t.Context(), m.monitor); err != nil {
		t.Fatal(err)
	}
	c, err := m.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MountRootfs(t.Context()); err != nil || rootfs.mounted.Load() != 1 {
		t.Fatal(err, rootfs.mounted.Load())
	}
	if err := c.Renew(t.Context(), createOptions()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.State != Running || s.Restarts != 1 {
		t.Errorf("%+v", s)
	}
}
