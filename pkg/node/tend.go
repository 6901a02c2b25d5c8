package node

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime"
)

// tend deals with the end of a container: it is started again, removed, or comes
// to rest. It may be called at any time, and looks at what is the case.
func (s *Server) tend(ctx context.Context, e *entry) error {
	for {
		wait, again, err := s.tendOnce(ctx, e)
		if err != nil || !again {
			return err
		}
		if !s.pause(ctx, e, wait) {
			return nil
		}
		if err := s.restart(ctx, e, wait); err != nil {
			// The next wait is a longer one.
			klog.FromContext(ctx).Error(err, "A container cannot be restarted", "name", e.name())
		}
	}
}

// tendOnce deals with an end that nobody has dealt with, and says whether the
// container is to be started again, and when.
func (s *Server) tendOnce(ctx context.Context, e *entry) (wait time.Duration, again bool, err error) {
	unlock, err := e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer unlock()
	c, err := s.config.Containers.Get(e.id)
	if err != nil {
		return 0, false, nil // it was removed
	}
	st := c.Status()
	r := e.record()
	if st.State != runtime.Exited || e.isWaiting() || e.isSettled(st) {
		return 0, false, nil
	}
	if wait, again = r.Restart.After(e.exit(st)); again && r.Started {
		e.beginWait() // first: who is woken by the end must not take it for the last
		s.settle(e, c)
		return wait, true, nil
	}
	return 0, false, s.finish(ctx, e, c)
}

// pause waits before a restart. It reports whether the wait was not ended by
// somebody who takes over.
func (s *Server) pause(ctx context.Context, e *entry, wait time.Duration) bool {
	e.mu.Lock()
	w := e.waiting
	e.mu.Unlock()
	if w == nil {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.over:
	case <-ctx.Done():
	}
	return false
}

// restart starts a container whose policy says so, after its wait.
func (s *Server) restart(ctx context.Context, e *entry, wait time.Duration) error {
	unlock, err := e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if !e.beginRestart() {
		return nil
	}
	defer e.endRestart()
	// A full disk is no reason for a container to stay down.
	s.insist(ctx, e, func(r *record) { r.Restarts++; r.Wait = wait })
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := s.start(ctx, e, nil); err != nil {
		e.unsettle()
		return err
	}
	return nil
}

// settle takes note of the end of a container, wakes those who wait for it and
// ends what belongs to the run. The caller has locked it.
func (s *Server) settle(e *entry, c *runtime.Container) {
	st := c.Status()
	if !e.settle(st) {
		return
	}
	s.stopHealth(e)
	e.tell(st)
}

// finish brings a container that has exited to rest, or removes it where that
// was asked for. The caller has locked it.
func (s *Server) finish(ctx context.Context, e *entry, c *runtime.Container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	s.stopHealth(e)
	r := e.record()
	if r.AutoRemove {
		s.settle(e, c)
		return s.removeItself(ctx, e)
	}
	err := s.rest(ctx, &r)
	s.settle(e, c)
	e.broadcast() // of an end that was dealt with before, when it was not the last
	return err
}

// rest gives back the network of a pod whose containers have all exited.
func (s *Server) rest(ctx context.Context, r *record) error {
	for _, c := range s.config.Containers.Group(r.PodID) {
		if st := c.Status(); st.State != runtime.Exited && !st.Infra {
			return nil
		}
	}
	_, err := s.config.CRI.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: r.PodID})
	s.refreshNetworks(ctx, r.Networks)
	return err
}

// lost forgets a container that somebody removed behind our back, and what is
// left of it.
func (s *Server) lost(ctx context.Context, e *entry) error {
	unlock, err := e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return s.remove(ctx, e, true)
}
