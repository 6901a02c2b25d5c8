package runtime

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// eventOf is the news of the end of what a snapshot shows alive.
func eventOf(s *Status) monitor.Event {
	return monitor.Event{ID: s.ID, Process: s.Process, Exit: &monitor.Exit{Code: 99, FinishedAt: time.Now()}}
}

const counting = "trap 'echo usr; exit 9' USR1; i=0; while :; do i=$((i+1)); echo n $i; sleep 0.05; done"

// lines counts those of the container's log.
func lines(t *testing.T, c *Container) int {
	t.Helper()
	return strings.Count(logOf(t, c), "\n")
}

// A paused container stands still, whatever daemon there is, and ends when it is
// to.
func TestPause(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		var told changeLog
		m.config.OnChange = told.add
		c := runningContainer(t, m, handler, "paused", counting, stdioOptions{})
		logHolds(t, c, "n 1")
		for range 2 {
			if err := c.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !c.Status().Paused {
			t.Fatal("it is not paused")
		}
		time.Sleep(200 * time.Millisecond) // what was written is logged
		before := lines(t, c)
		time.Sleep(300 * time.Millisecond)
		if now := lines(t, c); now != before {
			t.Errorf("it goes on: %d lines, then %d", before, now)
		}
		if _, err := c.Exec(t.Context(), shell("exit 0"), Streams{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("exec: %v", err)
		}
		// The next daemon sees it, too.
		next := NewManager(m.config)
		if err := next.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := next.Recover(t.Context(), m.monitor); err != nil {
			t.Fatal(err)
		}
		if again, err := next.Get("paused"); err != nil || !again.Status().Paused || again.Status().State != Running {
			t.Errorf("after a restart: %v", err)
		}
		if err := c.Unpause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Unpause(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("unpaused twice: %v", err)
		}
		for deadline := time.Now().Add(10 * time.Second); lines(t, c) == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it does not go on")
			}
		}
		told.want(t, ChangeCreated, ChangeStarted, ChangePaused, ChangeUnpaused)
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := c.Status(); s.State != Exited || s.Paused || s.ExitCode != 137 {
			t.Errorf("killed: %+v", s)
		}
		if err := c.Pause(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("paused what has exited: %v", err)
		}
		told.await(t, ChangeExited) // it may have been over before it went on
	})
}

// A paused container gets its stop signal.
func TestStopOfPaused(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		c := waitingContainer(t, m, handler, "stopped", counting, stdioOptions{})
		if err := c.change(func(s *Status) { s.StopSignal = "SIGUSR1" }); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		logHolds(t, c, "n 1")
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if s := c.Status(); s.State != Exited || s.Paused || s.ExitCode != 9 {
			t.Errorf("%+v", s)
		}
	})
}

// Recovery makes records and freezer agree.
func TestRecoverFreezer(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		c := runningContainer(t, m, handler, "frozen", "exec sleep 1000", stdioOptions{})
		if err := c.setPaused(true); err != nil { // and the daemon died
			t.Fatal(err)
		}
		if err := c.recoverFreezer(); err != nil || c.Status().Paused {
			t.Errorf("noted alone: %v", err)
		}
		if err := m.config.Cgroups.Freeze(t.Context(), c.Status().Cgroup); err != nil {
			t.Fatal(err)
		}
		if err := c.recoverFreezer(); err != nil {
			t.Error(err)
		}
		if frozen, err := m.config.Cgroups.Frozen(c.Status().Cgroup); err != nil || frozen {
			t.Errorf("frozen without a note: %v, %v", frozen, err)
		}
	})
}

func TestSignal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, m *Manager, handler string) {
		c := waitingContainer(t, m, handler, "signalled", counting, stdioOptions{})
		if err := c.Signal(t.Context(), unix.SIGUSR1); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("created: %v", err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		logHolds(t, c, "n 1")
		pids, err := c.PIDs()
		if err != nil || len(pids) == 0 || !strings.Contains(strings.Join(texts(pids), " "), strconv.Itoa(c.Status().Process.PID)) {
			t.Errorf("processes %v, %v", pids, err)
		}
		if err := c.Signal(t.Context(), unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		<-c.Exited()
		if s := c.Status(); s.ExitCode != 9 {
			t.Errorf("%+v", s)
		}
		for _, name := range []string{"USR1", "10", "SIGUSR1", "usr1"} {
			if sig, err := ParseSignal(name); err != nil || sig != unix.SIGUSR1 {
				t.Errorf("%s: %v, %v", name, sig, err)
			}
		}
		if _, err := ParseSignal("SIGNO"); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	})
}

func texts(list []int) (out []string) {
	for _, n := range list {
		out = append(out, strconv.Itoa(n))
	}
	return out
}
