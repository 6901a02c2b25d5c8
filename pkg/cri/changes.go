package cri

import (
	"sync"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// Changes carries what the layers below tell of their objects to the Server,
// which is made after they have recovered: what they find out before is kept
// for it. Its methods are what OnChange of both is set to.
type Changes struct {
	mu      sync.Mutex
	server  *Server
	waiting []func(*Server)
}

// Container takes a change of a container.
func (c *Changes) Container(change runtime.Change) {
	c.tell(func(s *Server) { s.containerChanged(change) })
}

// Sandbox takes a change of a sandbox.
func (c *Changes) Sandbox(change sandbox.Change) {
	c.tell(func(s *Server) { s.sandboxChanged(change) })
}

func (c *Changes) tell(f func(*Server)) {
	c.mu.Lock()
	s := c.server
	if s == nil {
		c.waiting = append(c.waiting, f)
	}
	c.mu.Unlock()
	if s != nil {
		s.take(f)
	}
}

// take deals with one change. Whoever tells it has changed something already,
// and must not be made to end by what comes of that.
func (s *Server) take(change func(*Server)) {
	_ = guard.Call(s.log, "notice of a change", func() error { // which is in the log
		change(s)
		return nil
	})
}

// connect hands over what was told so far, in order, and from then on all.
func (c *Changes) connect(s *Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > 0 {
		waiting := c.waiting
		c.waiting = nil
		c.mu.Unlock()
		for _, f := range waiting {
			s.take(f)
		}
		c.mu.Lock()
	}
	c.server = s
}

// containerChanged is told of each transition of a container, in order for each
// of them. It must not block.
func (s *Server) containerChanged(change runtime.Change) {
	if change.Kind == runtime.ChangeExited {
		s.stats.Close(change.Status.ID)
	}
	s.containerEvent(change)
	if change.Kind == runtime.ChangeExited && !change.Status.Infra {
		s.nri.Exited(change.Status.ID)
	}
	if change.Kind == runtime.ChangeRemoved {
		s.drop(change.Status.ID) // the events of others in its pod have looked at it
	}
}

// sandboxChanged is told of each transition of a sandbox, in order for each of
// them, before the operation that made it is over. It must not block.
func (s *Server) sandboxChanged(change sandbox.Change) {
	if change.Kind == sandbox.ChangeNotReady {
		s.stats.Close(change.Status.ID + podCgroup)
	}
	s.sandboxEvent(change)
	if change.Kind == sandbox.ChangeRemoved {
		s.drop(change.Status.ID)
	}
}
