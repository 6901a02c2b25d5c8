// Package progress says what a call is doing while it does it: to whoever began
// it, who wants to tell in an error which step took the time, and to a trace.
//
// Both travel in the context, so that the layers need not know who listens. Where
// nobody does, as a rule, a step or a span costs one look into the context. Spans
// are made by the tracer that made the span they are below: nothing is global,
// and a daemon without tracing has no tracer at all.
//
// The package keeps nothing and has no locks. It is not for metrics, which have
// a place in pkg/cri, nor for logs.
package progress
