package node

import (
	"context"
	"sync"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Changes carries what happens to containers to the Server, which deals with it
// in its own time. Its method Container is for OnChange of the containers'
// manager, and may be called before there is a Server.
type Changes struct {
	mu      sync.Mutex
	waiting []func(take func(runtime.Change))
	more    chan struct{}
}

// NewChanges returns Changes that nobody follows yet.
func NewChanges() *Changes { return &Changes{more: make(chan struct{}, 1)} }

// Container takes a change of a container. It does not block.
func (c *Changes) Container(change runtime.Change) {
	c.add(func(take func(runtime.Change)) { take(change) })
}

// then calls f when all changes so far have been dealt with.
func (c *Changes) then(f func()) { c.add(func(func(runtime.Change)) { f() }) }

func (c *Changes) add(f func(take func(runtime.Change))) {
	c.mu.Lock()
	c.waiting = append(c.waiting, f)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default: // somebody was told already
	}
}

// follow hands over the changes, in order, until ctx ends.
func (c *Changes) follow(ctx context.Context, take func(runtime.Change)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.more:
		}
		c.mu.Lock()
		waiting := c.waiting
		c.waiting = nil
		c.mu.Unlock()
		for _, f := range waiting {
			// Its panic is in the log, and the next change is dealt with all the same.
			_ = guard.Call(klog.FromContext(ctx), "a change of a container", func() error { f(take); return nil })
		}
	}
}

// changed deals with a change: it tells of it, and has done what it asks for.
func (s *Server) changed(change runtime.Change) {
	st := change.Status
	if st.Infra {
		return
	}
	e := s.table.remembered(st.ID)
	if st.Owner != "" && e == nil {
		return // a build's, or one that is undone
	}
	s.containerEvent(e, change)
	if e == nil {
		return
	}
	switch change.Kind {
	case runtime.ChangeExited:
		s.later(e.id, func(ctx context.Context) error { return s.tend(ctx, e) })
	case runtime.ChangeRemoved:
		if !e.isGone() {
			s.later(e.id, func(ctx context.Context) error { return s.lost(ctx, e) })
		}
	case runtime.ChangeCreated, runtime.ChangeStarted, runtime.ChangePaused, runtime.ChangeUnpaused:
	}
}
