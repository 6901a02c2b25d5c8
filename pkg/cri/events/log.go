package events

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// ErrLost ends a subscription that could not keep up.
var ErrLost = fmt.Errorf("events lost, relist: they were not read in time: %w", errdefs.ErrResourceExhausted)

// ErrClosed ends the subscriptions of a log that is closed.
var ErrClosed = fmt.Errorf("events end: %w", errdefs.ErrUnavailable)

// Bounds of a Log.
type Bounds struct {
	// Events and Bytes bound what is kept for subscribers.
	Events, Bytes int
	// IdleEvents and IdleBytes bound it while there are none.
	IdleEvents, IdleBytes int
	// Keep is how long an event waits for somebody to be sent to.
	Keep time.Duration
}

// DefaultBounds suit a node. A pod of a few containers makes events of about
// 3 KB.
var DefaultBounds = Bounds{Events: 8192, Bytes: 64 << 20, IdleEvents: 1024, IdleBytes: 4 << 20, Keep: 5 * time.Minute}

// Log keeps events of type T for its subscribers.
type Log[T any] struct {
	bounds Bounds
	size   func(T) int

	mu          sync.Mutex
	entries     []entry[T]
	first       uint64 // the number of entries[0]
	delivered   uint64 // the first that nobody has been sent
	bytes       int
	subscribers map[*subscriber]struct{}
	changed     chan struct{} // closed and replaced at each change
	dropped     uint64
	expiry      *time.Timer
	closed      bool
	senders     sync.WaitGroup
}

type entry[T any] struct {
	event T
	size  int
	at    time.Time
}

// subscriber is one who reads.
type subscriber struct{ next uint64 }

// NewLog returns an empty log. size estimates the memory that an event takes.
func NewLog[T any](b Bounds, size func(T) int) *Log[T] {
	return &Log[T]{bounds: b, size: size, subscribers: map[*subscriber]struct{}{}, changed: make(chan struct{})}
}

// Add appends an event. It does not wait for anybody.
func (l *Log[T]) Add(event T) {
	size := l.size(event)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.entries = append(l.entries, entry[T]{event: event, size: size, at: time.Now()})
	l.bytes += size
	l.trim()
	l.wake()
}

// Dropped counts the events that somebody should have had and did not get:
// those that a subscriber was cut off from, and those that waited too long for
// one.
func (l *Log[T]) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Subscribers counts those who are subscribed now.
func (l *Log[T]) Subscribers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.subscribers)
}

// Subscribe sends events, one after another, until ctx ends, the log is closed
// or send fails. A send that blocks is waited for no longer than the log has
// room for what comes meanwhile; it must return soon after Subscribe has.
func (l *Log[T]) Subscribe(ctx context.Context, send func(T) error) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	s := &subscriber{next: max(l.delivered, l.first)}
	l.subscribers[s] = struct{}{}
	l.senders.Add(1) // under mu: Close waits for it
	l.mu.Unlock()
	defer l.leave(s)

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	sent := make(chan error, 1)
	go func() {
		defer l.senders.Done()
		sent <- l.deliver(ctx, s, send)
	}()
	for {
		select {
		case err := <-sent:
			return err
		case <-l.state(s, stop):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// state cuts a subscriber off that has fallen behind, or that nothing comes for
// any more, and returns what to wait for.
func (l *Log[T]) state(s *subscriber, stop context.CancelCauseFunc) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		stop(ErrClosed)
	case s.next < l.first:
		stop(ErrLost)
	}
	return l.changed
}

// deliver sends to one subscriber what comes.
func (l *Log[T]) deliver(ctx context.Context, s *subscriber, send func(T) error) error {
	for {
		event, err := l.take(ctx, s)
		if err != nil {
			return err
		}
		if err := send(event); err != nil {
			return err
		}
	}
}

// take waits for a subscriber's next event.
func (l *Log[T]) take(ctx context.Context, s *subscriber) (event T, err error) {
	l.mu.Lock()
	for !l.closed && s.next >= l.first+uint64(len(l.entries)) {
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return event, context.Cause(ctx)
		case <-changed:
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return event, context.Cause(ctx)
	case s.next < l.first:
		return event, ErrLost
	case l.closed:
		return event, ErrClosed
	}
	event = l.entries[s.next-l.first].event
	s.next++
	l.delivered = max(l.delivered, s.next)
	l.trim()
	return event, nil
}

// leave ends a subscription.
func (l *Log[T]) leave(s *subscriber) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.subscribers, s)
	l.trim()
}

// trim drops from the front what nobody needs any more, and what there is no
// room for. The caller holds mu.
func (l *Log[T]) trim() {
	needed := l.delivered
	for s := range l.subscribers {
		needed = min(needed, s.next)
	}
	events, bytes := l.bounds.Events, l.bounds.Bytes
	if len(l.subscribers) == 0 {
		events, bytes = l.bounds.IdleEvents, l.bounds.IdleBytes
	}
	old := time.Now().Add(-l.bounds.Keep)
	cut := 0
	for ; cut < len(l.entries); cut++ {
		e, number := l.entries[cut], l.first+uint64(cut)
		expired := len(l.subscribers) == 0 && e.at.Before(old)
		if number >= needed && !expired && len(l.entries)-cut <= events && l.bytes <= bytes {
			break
		}
		if number >= needed {
			l.drop(number)
		}
		l.bytes -= e.size
	}
	if cut > 0 {
		l.first += uint64(cut)
		clear(l.entries[:cut]) // for the collector
		l.entries = l.entries[cut:]
		if len(l.entries) == 0 {
			l.entries = nil // and the array with it
		}
	}
	l.expire()
}

// drop counts an event that those who still wait for it do not get.
func (l *Log[T]) drop(number uint64) {
	if number >= l.delivered && len(l.subscribers) == 0 {
		l.dropped++
		return
	}
	for s := range l.subscribers {
		if s.next <= number {
			l.dropped++
		}
	}
}

// expire sees to it that what waits for a subscriber goes in time.
func (l *Log[T]) expire() {
	waiting := len(l.entries) > 0 && len(l.subscribers) == 0 && !l.closed
	if !waiting || l.expiry != nil {
		return
	}
	l.expiry = time.AfterFunc(time.Until(l.entries[0].at.Add(l.bounds.Keep))+time.Millisecond, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.expiry = nil
		l.trim()
	})
}

// wake tells all who wait that something has changed.
func (l *Log[T]) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close ends all subscriptions. Wait waits for their ends.
func (l *Log[T]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	l.entries, l.bytes = nil, 0
	if l.expiry != nil {
		l.expiry.Stop()
	}
	l.wake()
}

// Wait returns, after Close, when no send is under way any more.
func (l *Log[T]) Wait() { l.senders.Wait() }
