package monitor

import (
	"context"
	"sync"
)

// An eventQueue delivers events one after another from a goroutine of its own,
// so that a slow or calling-back receiver does not hold the connection up.
type eventQueue struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	wake   chan struct{}

	mu     sync.Mutex
	events []Event
}

func newEventQueue(ctx context.Context, deliver func(context.Context, Event)) *eventQueue {
	ctx, cancel := context.WithCancel(ctx)
	q := &eventQueue{cancel: cancel, wake: make(chan struct{}, 1)}
	q.wait.Go(func() {
		for {
			select {
			case <-q.wake:
			case <-ctx.Done():
				return
			}
			q.mu.Lock()
			events := q.events
			q.events = nil
			q.mu.Unlock()
			for _, e := range events {
				if ctx.Err() == nil {
					deliver(ctx, e)
				}
			}
		}
	})
	return q
}

// put never blocks.
func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	q.events = append(q.events, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// stop waits for the delivery under way; the rest comes again to the next
// Supervisor.
func (q *eventQueue) stop() {
	q.cancel()
	q.wait.Wait()
}
