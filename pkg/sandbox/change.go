package sandbox

import "sync"

// ChangeKind says what has become of a sandbox.
type ChangeKind int

// The kinds of change, in the only order a sandbox goes through them.
const (
	ChangeReady ChangeKind = iota
	ChangeNotReady
	ChangeRemoved
)

func (k ChangeKind) String() string {
	return [...]string{"ready", "not ready", "removed"}[k]
}

// Change is one transition of a sandbox that others can see. Each is told once
// in the life of a daemon, in order for each sandbox; that a Ready sandbox was
// lost while no daemon ran is told by Recover. A sandbox whose Create failed,
// and could not even be undone, begins with ChangeNotReady.
type Change struct {
	Kind ChangeKind
	// Status is the snapshot right after the transition; of a removed sandbox
	// it is the last there was. The receiver must not change it.
	Status Status
}

// changes are those of one sandbox that OnChange has not been told of yet.
type changes struct {
	mu      sync.Mutex
	untold  []Change
	telling bool
}

// show makes a status the one that everybody sees and tells of the transition,
// if it is one. The caller holds op.
func (s *Sandbox) show(next Status) {
	last := s.status.Swap(&next)
	if last.State == next.State {
		return
	}
	switch next.State {
	case Ready:
		s.tell(Change{Kind: ChangeReady, Status: next})
	case NotReady:
		s.tell(Change{Kind: ChangeNotReady, Status: next})
	default: // Creating is not to be seen
	}
}

// tell calls OnChange without a lock. The one who tells goes on for whoever
// comes meanwhile, so that order is kept.
func (s *Sandbox) tell(change Change) {
	if s.manager.config.OnChange == nil {
		return
	}
	c := &s.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	c.untold = append(c.untold, change)
	if c.telling {
		return
	}
	c.telling = true
	for len(c.untold) > 0 {
		next := c.untold
		c.untold = nil
		c.mu.Unlock()
		for _, change := range next {
			s.manager.config.OnChange(change)
		}
		c.mu.Lock()
	}
	c.telling = false
}
