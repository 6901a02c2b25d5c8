package restart

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Name of a policy.
type Name string

// The policies.
const (
	No            Name = "no"
	OnFailure     Name = "on-failure"
	Always        Name = "always"
	UnlessStopped Name = "unless-stopped"
)

// Policy says when a container is started again.
type Policy struct {
	Name Name `json:"name,omitempty"`
	// Maximum is how often OnFailure does so; 0 is for ever.
	Maximum uint32 `json:"maximum,omitempty"`
}

// Parse checks a policy; without a name it is No.
func Parse(name string, maximum uint32) (Policy, error) {
	p := Policy{Name: Name(name), Maximum: maximum}
	switch p.Name {
	case "":
		p.Name = No
	case No, Always, UnlessStopped, OnFailure:
	default:
		return Policy{}, fmt.Errorf("restart.name: %q is none of no, on-failure, always and unless-stopped: %w", name, errdefs.ErrInvalidArgument)
	}
	if maximum > 0 && p.Name != OnFailure {
		return Policy{}, fmt.Errorf("restart.maximum: goes with on-failure alone, not with %s: %w", p.Name, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// None reports whether the policy never restarts anything.
func (p Policy) None() bool { return p.Name == "" || p.Name == No }

// Exit is how a container came to its end.
type Exit struct {
	Code int
	// Ran is how long it did.
	Ran time.Duration
	// Stopped: somebody asked for the end.
	Stopped bool
	// Restarts is how often the policy has started it since somebody did, and
	// Wait how long it waited the last time.
	Restarts uint32
	Wait     time.Duration
}

// The shortest and the longest wait, and the run after which it is short again.
const (
	minWait = 100 * time.Millisecond
	maxWait = time.Minute
	longRun = 10 * time.Second
)

// After returns whether the container is started again, and after what wait.
func (p Policy) After(e Exit) (wait time.Duration, again bool) {
	switch p.Name {
	case Always, UnlessStopped:
		again = !e.Stopped
	case OnFailure:
		again = !e.Stopped && e.Code != 0 && (p.Maximum == 0 || e.Restarts < p.Maximum)
	case No:
	}
	if !again {
		return 0, false
	}
	if e.Wait == 0 || e.Ran >= longRun {
		return minWait, true
	}
	return min(2*e.Wait, maxWait), true
}

// AtBoot is After for when the daemon starts: a container that is always to run
// does so again, also where somebody stopped it.
func (p Policy) AtBoot(e Exit) bool {
	if p.Name == Always {
		return true
	}
	_, again := p.After(e)
	return again
}
