package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func leftovers(t *testing.T, m *Manager, id string) []string {
	t.Helper()
	var left []string
	for _, dir := range []string{m.recordDir(id), m.stateDir(id)} {
		if _, err := os.Stat(dir); err == nil {
			left = append(left, dir)
		}
	}
	states, err := m.monitor.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		left = append(left, "monitor: "+s.ID)
	}
	return left
}

func TestLifecycle(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	c := createdContainer(t, m, "a")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	process := c.Status().Process
	if err := c.Stop(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.State != Exited || s.ExitCode != 128+int(unix.SIGTERM) || process.Alive() {
		t.Fatalf("stopped: %+v", s)
	}
	if err := m.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, m, "a"); len(left) > 0 {
		t.Fatalf("left: %v", left)
	}
}

// A pod that is removed while a container in it is being prepared, or between
// that and its creation, must not get the container back.
func TestRemoveWhileBeingMade(t *testing.T) {
	rootfs := &fakeRootfs{}
	m := newTestManager(t, t.TempDir(), rootfs)
	removed := make(chan error, 1)
	rootfs.mounting = func() {
		go func() { removed <- m.Remove(context.Background(), "a") }()
		select {
		case err := <-removed:
			removed <- err
		case <-time.After(100 * time.Millisecond): // it waits, as it should
		}
	}
	c, err := m.Prepare(t.Context(), Params{ID: "a", Group: "g", Name: "a", Handler: "fake", ImageID: "i"})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if rootfs.mounted.Load() != 0 {
		t.Error("the root file system of a removed container is mounted")
	}
	if err := c.Create(t.Context(), createOptions()); err == nil {
		t.Error("a removed container was created")
	}
	if left := leftovers(t, m, "a"); len(left) > 0 {
		t.Fatalf("left: %v", left)
	}
}

// An exec's record that makes no sense keeps no container from recovery.
func TestRecoverWithBrokenExec(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root/containers/a"), 0o700); err != nil {
		t.Fatal(err)
	}
	exec := filepath.Join(dir, "state/containers/a/exec/1")
	if err := os.MkdirAll(exec, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(exec, "pid"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newTestManager(t, dir, &fakeRootfs{})
	if c, err := m.Get("a"); err == nil {
		t.Fatalf("a half made container is still there: %s", c.Status().State)
	}
}

// A record that cannot be written must not let a process run out of sight.
func TestStartWithoutRoom(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	c := createdContainer(t, m, "a")
	if err := c.change(func(s *Status) { s.Starting = true }); err != nil {
		t.Fatal(err)
	}
	away := m.recordDir("a") + ".away"
	if err := os.Rename(m.recordDir("a"), away); err != nil {
		t.Fatal(err)
	}
	err := c.startFailed(t.Context(), errors.New("no reason"))
	if renameErr := os.Rename(away, m.recordDir("a")); renameErr != nil {
		t.Fatal(renameErr)
	}
	if s := c.Status(); err == nil || s.State != Exited || s.Reason != ReasonStartError {
		t.Errorf("%v, %+v", err, s)
	}
	deadline := time.Now().Add(10 * time.Second)
	for process := c.Status().Process; process.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			_ = process.Signal(unix.SIGKILL)
			t.Fatal("the process lives")
		}
	}
}

// The end of a container that the monitor does not know is found out by
// whoever kills it; else nobody could ever remove it.
func TestRemoveUnwatched(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	process, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = process.Wait() }()
	identity, err := linux.FindProcess(process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c := newContainer(m, &Status{Params: Params{ID: "a", Group: "g", Handler: "fake"}, State: Running, Process: identity})
	if err := errors.Join(m.add(c), m.makeDirs("a", nil), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.Reason != ReasonExitCodeLost {
		t.Errorf("%+v", s)
	}
}

// The moment a reboot is noticed at does not move with each restart.
func TestRebootIsNotedOnce(t *testing.T) {
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot")
	setBoot := func(id string) {
		if err := os.WriteFile(boot, []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CRI_NODE_BOOT_ID_PATH", boot)
	m := NewManager(Config{Root: dir})
	setBoot("one")
	if err := os.MkdirAll(m.recordDir("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := linux.SaveRecord(m.recordPath("a"), Status{Params: Params{ID: "a"}, State: Running}, linux.SurviveProcess); err != nil {
		t.Fatal(err)
	}
	setBoot("two")
	first, ended := m.load(t.Context(), "a")
	second, endedAgain := m.load(t.Context(), "a")
	if !ended || endedAgain {
		t.Errorf("the end by a reboot is told %v, then %v, want once", ended, endedAgain)
	}
	if first.Reason != ReasonNodeReboot || !first.FinishedAt.Equal(second.FinishedAt) {
		t.Fatalf("%v, then %v", first.FinishedAt, second.FinishedAt)
	}
}

// Updates at the same time build on one another: none undoes another.
func TestUpdatesAtOnce(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	c := createdContainer(t, m, "a")
	const updates = 8
	var wait sync.WaitGroup
	for range updates {
		wait.Go(func() {
			err := c.Update(t.Context(), func(s *Status) (Limits, error) {
				return Limits{New: &specs.LinuxResources{}, Request: append(slices.Clone(s.Request), 'x')}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got := c.Status().Request; len(got) != updates {
		t.Fatalf("%d of %d updates are left", len(got), updates)
	}
}

// A stop that comes while the container is being started means what is started.
func TestStopDuringStart(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	c := createdContainer(t, m, "a")
	unlock, err := c.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.change(func(s *Status) { s.Starting = true }); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- c.Stop(t.Context(), 0) }()
	select {
	case err := <-stopped:
		t.Fatalf("stopped a container that was not started yet: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	runtime, err := c.driver()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.letGo(t.Context(), runtime); err != nil {
		t.Fatal(err)
	}
	if err := c.change(func(s *Status) { s.State, s.Starting = Running, false }); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.State != Exited {
		t.Fatalf("state is %s", s.State)
	}
}

// A panic in the middle of a step does not keep the container from being
// removed.
func TestRemoveAfterAPanic(t *testing.T) {
	rootfs := &fakeRootfs{}
	m := newTestManager(t, t.TempDir(), rootfs)
	rootfs.mounting = func() { panic("at the disco") }
	err := guard.Call(klog.FromContext(t.Context()), "prepare", func() error {
		_, err := m.Prepare(t.Context(), Params{ID: "a", Group: "pod", Handler: "fake", ImageID: "image"})
		return err
	})
	if !errdefs.IsInternal(err) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.Remove(ctx, "a"); err != nil {
		t.Error(err)
	}
}
