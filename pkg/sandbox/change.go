package sandbox

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

// tell calls OnChange without a lock, in order.
func (s *Sandbox) tell(change Change) {
	if s.manager.config.OnChange == nil {
		return
	}
	s.changes.Put(change)
	s.changes.Deliver(s.manager.config.OnChange)
}
