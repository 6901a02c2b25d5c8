package node

import (
	"context"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Wait waits until a container does not run, or until its next end, or until it
// is removed.
func (s *containers) Wait(ctx context.Context, r *nodev1.WaitRequest) (*nodev1.WaitResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	var code int
	switch r.GetCondition() {
	case "", "not-running":
		if state := t.c.Status().State; state == runtime.Created && t.e != nil && !t.e.record().Started {
			return &nodev1.WaitResponse{}, nil
		}
		code, err = s.waitEnd(ctx, t, t.runsBefore())
	case "next-exit":
		code, err = s.waitEnd(ctx, t, t.ends())
	case "removed":
		code, err = s.waitRemoved(ctx, t)
	default:
		return nil, invalid("condition: %q is none of not-running, next-exit and removed", r.GetCondition())
	}
	if err != nil {
		return nil, err
	}
	response := &nodev1.WaitResponse{ExitCode: int32(code)}
	if st := t.c.Status(); st.Reason == runtime.ReasonStartError {
		response.Error = st.Message
	}
	return response, nil
}

// ends counts the ends of a container so far.
func (t target) ends() uint64 {
	if t.e == nil {
		return 0
	}
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	return t.e.ends
}

// runsBefore counts the ends before the one to wait for: that of the present run,
// or of the last.
func (t target) runsBefore() uint64 {
	n := t.ends()
	if t.e != nil && t.c.Status().State == runtime.Exited && n > 0 && t.e.isSettled(t.c.Status()) {
		return n - 1
	}
	return n
}

// waitEnd waits until a container has ended more often than n times, and returns
// the exit code of the last.
func (s *Server) waitEnd(ctx context.Context, t target, n uint64) (code int, err error) {
	if t.e == nil {
		select {
		case <-t.c.Exited():
			return t.c.Status().ExitCode, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	for {
		t.e.mu.Lock()
		ends, last, gone, changed := t.e.ends, t.e.last, t.e.gone, t.e.changed
		t.e.mu.Unlock()
		switch {
		case ends > n:
			return last.code, nil
		case gone:
			return t.c.Status().ExitCode, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// waitItself waits until a container that goes when it exits is gone, or the
// first attempt has failed.
func (s *Server) waitItself(ctx context.Context, e *entry) error {
	for {
		e.mu.Lock()
		over, changed := e.gone || e.delayed, e.changed
		e.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitRemoved waits until a container is gone.
func (s *Server) waitRemoved(ctx context.Context, t target) (code int, err error) {
	if t.e == nil {
		return 0, refused("container %q belongs to Kubernetes: its removal cannot be waited for", s.title(t))
	}
	for {
		t.e.mu.Lock()
		gone, changed := t.e.gone, t.e.changed
		t.e.mu.Unlock()
		if gone {
			return t.c.Status().ExitCode, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
