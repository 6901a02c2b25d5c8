package journal

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrLost tells a reader that it was too slow to get all events.
var ErrLost = errors.New("events came faster than they were read, and some are lost")

// Journal keeps the last events of type T. The zero Journal is not ready: use New.
type Journal[T any] struct {
	mu   sync.Mutex
	ring []entry[T]
	next uint64 // number of the next event
	more chan struct{}
}

type entry[T any] struct {
	at    time.Time
	event T
}

// New returns a journal of the last size events.
func New[T any](size int) *Journal[T] {
	return &Journal[T]{ring: make([]entry[T], size), more: make(chan struct{})}
}

// Add appends an event of now. build is given the time, which is later than that
// of all events before.
func (j *Journal[T]) Add(build func(at time.Time) T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := time.Now()
	if j.next > 0 {
		if last := j.ring[(j.next-1)%uint64(len(j.ring))].at; !at.After(last) {
			at = last.Add(time.Nanosecond)
		}
	}
	j.ring[j.next%uint64(len(j.ring))] = entry[T]{at, build(at)}
	j.next++
	close(j.more)
	j.more = make(chan struct{})
}

// Read sends events until ctx ends, or an event is later than until: those that
// are remembered and not before since, and then new ones. A zero since means new
// ones only, a zero until for ever.
func (j *Journal[T]) Read(ctx context.Context, since, until time.Time, send func(T) error) error {
	next := j.position(since)
	end := make(<-chan time.Time)
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		e, more, err := j.at(next)
		switch {
		case err != nil:
			return err
		case more == nil && !until.IsZero() && e.at.After(until):
			return nil
		case more == nil:
			next++
			if !since.IsZero() && e.at.Before(since) {
				continue
			}
			if err := send(e.event); err != nil {
				return err
			}
			continue
		}
		select {
		case <-more:
		case <-end:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// position is the number of the first event to read.
func (j *Journal[T]) position(since time.Time) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if since.IsZero() {
		return j.next
	}
	return j.first()
}

// first is the number of the oldest event that is remembered.
func (j *Journal[T]) first() uint64 {
	if size := uint64(len(j.ring)); j.next > size {
		return j.next - size
	}
	return 0
}

// at returns the event of a number, or else what is closed once there is one.
func (j *Journal[T]) at(number uint64) (e entry[T], more <-chan struct{}, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case number == j.next:
		return e, j.more, nil
	case number < j.first():
		return e, nil, ErrLost
	}
	return j.ring[number%uint64(len(j.ring))], nil, nil
}

// Past returns the events that are remembered, the oldest first.
func (j *Journal[T]) Past() []T {
	j.mu.Lock()
	defer j.mu.Unlock()
	size := uint64(len(j.ring))
	first := uint64(0)
	if j.next > size {
		first = j.next - size
	}
	events := make([]T, 0, j.next-first)
	for n := first; n < j.next; n++ {
		events = append(events, j.ring[n%size].event)
	}
	return events
}
