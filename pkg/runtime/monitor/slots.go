package monitor

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// slots bound how many OCI runtimes of execs run at once. They are short and
// busy: hundreds at once take longer than one after another, and everything
// else with them. Creates need no slot.
type slots chan struct{}

// slotTime is how long an OCI runtime keeps its slot. One that is still there
// waits for something and is not busy; others must not wait for it.
const slotTime = 5 * time.Second

func newSlots() slots { return make(slots, max(4, 2*runtime.NumCPU())) }

// take waits for a slot in the order of arrival. The caller must call give when
// its runtime has ended.
func (s slots) take(ctx context.Context) (give func(), err error) {
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	once := sync.OnceFunc(func() { <-s })
	timer := time.AfterFunc(slotTime, once)
	return func() {
		timer.Stop()
		once()
	}, nil
}
