package revision

import "sync/atomic"

// Counter counts the changes of a collection. The zero value has counted none.
type Counter struct{ n atomic.Uint64 }

// Now is a number that differs after each change.
func (c *Counter) Now() uint64 { return c.n.Load() }

// Changed counts a change that has been made: a value came or went.
func (c *Counter) Changed() { c.n.Add(1) }

// Pointer is an atomic pointer to an immutable value of a collection. The zero
// value is counted by nobody until CountedBy is called.
type Pointer[T any] struct {
	value   atomic.Pointer[T]
	counter *Counter
}

// CountedBy tells which counter counts the changes. It is called before the
// Pointer is shared.
func (p *Pointer[T]) CountedBy(c *Counter) { p.counter = c }

// Load returns the value.
func (p *Pointer[T]) Load() *T { return p.value.Load() }

// Store replaces the value.
func (p *Pointer[T]) Store(next *T) { p.Swap(next) }

// Swap replaces the value and returns the last one.
func (p *Pointer[T]) Swap(next *T) *T {
	last := p.value.Swap(next)
	if p.counter != nil {
		p.counter.Changed()
	}
	return last
}
