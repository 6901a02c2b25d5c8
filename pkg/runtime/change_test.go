package runtime

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// changeLog collects what OnChange is told.
type changeLog struct {
	mu      sync.Mutex
	changes []Change
}

func (l *changeLog) add(c Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, c)
}

func (l *changeLog) kinds() []ChangeKind {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kinds []ChangeKind
	for _, c := range l.changes {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

func (l *changeLog) want(t *testing.T, kinds ...ChangeKind) {
	t.Helper()
	if got := l.kinds(); !slices.Equal(got, kinds) {
		t.Errorf("told %v, want %v", got, kinds)
	}
}

// await waits for a kind, which may be told after it is to be seen.
func (l *changeLog) await(t *testing.T, kind ChangeKind) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !slices.Contains(l.kinds(), kind); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("told %v, and nothing of %v", l.kinds(), kind)
		}
	}
}

func TestChangesOfALife(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	var told changeLog
	m.config.OnChange = told.add
	c := createdContainer(t, m, "a")
	told.want(t, ChangeCreated)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	told.want(t, ChangeCreated, ChangeStarted)
	if err := c.Stop(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	told.want(t, ChangeCreated, ChangeStarted, ChangeExited, ChangeRemoved)
	for i, want := range []State{Created, Running, Exited, Exited} {
		if got := told.changes[i].Status.State; got != want {
			t.Errorf("change %v shows a container that is %v, want %v", told.changes[i].Kind, got, want)
		}
	}
}

// What fails before anybody could see it is not told of.
func TestNoChangeOfWhatWasNeverSeen(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	var told changeLog
	m.config.OnChange = told.add
	c, err := m.Prepare(t.Context(), Params{ID: "a", Group: "g", Name: "a", Handler: "fake", ImageID: "i"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	told.want(t)
}

// A process that ends before the start of it is recorded has run all the same.
func TestChangesOfAShortLife(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	var told changeLog
	m.config.OnChange = told.add
	c := createdContainer(t, m, "a")
	if err := c.change(func(s *Status) { s.Starting = true }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.exitedWith(monitor.Event{Exit: &monitor.Exit{Code: 3}})
	}
	told.want(t, ChangeCreated, ChangeStarted, ChangeExited)
	end(t, c)
}

// end lets the process of a container that is said to have exited do so.
func end(t *testing.T, c *Container) {
	t.Helper()
	if err := c.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := func(s monitor.ContainerState) bool { return s.ID == c.id && s.Exit != nil }
	for {
		states, err := c.m.monitor.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(states, ended) {
			return
		}
	}
}

// A receiver may look at the container, and changes that come meanwhile wait
// for their turn.
func TestChangesKeepTheirOrder(t *testing.T) {
	m := newTestManager(t, t.TempDir(), &fakeRootfs{})
	var told changeLog
	m.config.OnChange = func(change Change) {
		told.add(change)
		if change.Kind == ChangeCreated {
			c, err := m.Get("a")
			if err != nil {
				t.Error(err)
				return
			}
			c.exitedWith(monitor.Event{Exit: &monitor.Exit{}})
			told.want(t, ChangeCreated)
		}
	}
	c := createdContainer(t, m, "a")
	told.want(t, ChangeCreated, ChangeExited)
	end(t, c)
}
