package runtime

// ChangeKind says what has become of a container.
type ChangeKind int

// The kinds of change, in the order a container goes through them. One that is
// renewed is told to have been created again after it has exited.
const (
	ChangeCreated ChangeKind = iota
	ChangeStarted
	ChangeExited
	ChangeRemoved
	// ChangePaused and ChangeUnpaused come while it runs.
	ChangePaused
	ChangeUnpaused
)

func (k ChangeKind) String() string {
	return [...]string{"created", "started", "exited", "removed", "paused", "unpaused"}[k]
}

// Change is one transition of a container that others can see. Those of the
// inits of pods are told as well; see Params.Infra.
//
// Each transition is told once in the life of a daemon, in order for each
// container: also the exit, or the start, that happened while no daemon ran,
// which Load and Recover find out. A container that exits so quickly that
// nobody has seen it run is told to have started first.
type Change struct {
	Kind ChangeKind
	// Status is the snapshot right after the transition; of a removed
	// container it is the last there was. The receiver must not change it.
	Status *Status
}

// showLocked makes a status the one that everybody sees, and takes note of the
// change to be told by tell. The caller holds mu.
func (c *Container) showLocked(next *Status) {
	last := c.status.Swap(next)
	if last.State == next.State && last.Paused == next.Paused {
		return
	}
	if last.State == next.State {
		kind := ChangeUnpaused
		if next.Paused {
			kind = ChangePaused
		}
		c.noteLocked(Change{Kind: kind, Status: next})
		return
	}
	if next.State == Exited && last.State == Created && last.Starting && next.Reason != ReasonStartError {
		ran := *last
		ran.State, ran.Starting = Running, false
		c.noteLocked(Change{Kind: ChangeStarted, Status: &ran})
	}
	switch next.State {
	case Created:
		c.noteLocked(Change{Kind: ChangeCreated, Status: next})
	case Running:
		c.noteLocked(Change{Kind: ChangeStarted, Status: next})
	case Exited:
		c.noteLocked(Change{Kind: ChangeExited, Status: next})
	default: // Creating is not to be seen
	}
}

func (c *Container) noteLocked(change Change) {
	if c.m.config.OnChange != nil {
		c.changes.Put(change)
	}
}

// unlockAndTell releases mu and tells of the changes made under it.
func (c *Container) unlockAndTell() {
	c.mu.Unlock()
	c.changes.Deliver(c.m.config.OnChange)
}

// toldRemoved tells that the container is gone, if it was ever seen.
func (c *Container) toldRemoved() {
	c.mu.Lock()
	if s := c.status.Load(); s.State != Creating {
		c.noteLocked(Change{Kind: ChangeRemoved, Status: s})
	}
	c.unlockAndTell()
}
