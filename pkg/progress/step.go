package progress

import "context"

// Listener is told that a call enters a step, which ends the one before, and
// returns the context of the step.
type Listener func(ctx context.Context, step string) context.Context

type listenerKey struct{}

// Listen tells l of the steps of what is done with the context it returns. A nil
// l hears nothing, and keeps whoever listens above from hearing: that is for work
// which is no part of the call's own sequence.
func Listen(ctx context.Context, l Listener) context.Context {
	return context.WithValue(ctx, listenerKey{}, l)
}

// Enter begins a step.
func Enter(ctx context.Context, step string) context.Context {
	if l, ok := ctx.Value(listenerKey{}).(Listener); ok && l != nil {
		return l(ctx, step)
	}
	return ctx
}
