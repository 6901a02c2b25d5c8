package runtime

import (
	"testing"
	"time"
)

// Who kills a container while its processes are being restored waits for them
// and ends them: before, there is nothing to be found.
func TestKillWaitsForARestore(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	c := createdContainer(t, m, "a")
	process := c.Status().Process
	restoring := *c.Status()
	restoring.Restore, restoring.Starting = &Restore{}, true
	restoring.Process.PID = 0
	c.status.Store(&restoring)
	unlock, err := c.lock(t.Context()) // as Start has it
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan error, 1)
	go func() { killed <- c.Kill(t.Context()) }()
	select {
	case err := <-killed:
		t.Errorf("returned with %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if s := c.Status(); s.State != Created {
		t.Errorf("the container is %v", s.State)
	}
	if err := c.change(func(s *Status) { s.State, s.Starting, s.Process = Running, false, process }); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-killed; err != nil {
		t.Error(err)
	}
	if process.Alive() {
		t.Error("a process is left")
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
