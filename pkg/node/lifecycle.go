package node

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// defaultStopTimeout is how long a container may take to end, in seconds.
const defaultStopTimeout = 10

// startLimit bounds a start, which goes on when its client is gone.
const startLimit = 2 * time.Minute

// Start starts a container that was created or has exited. One that runs is a
// success.
func (s *containers) Start(ctx context.Context, r *nodev1.StartRequest) (*nodev1.StartResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	return &nodev1.StartResponse{}, s.startAsked(ctx, t, nil)
}

// startAsked starts a container because somebody asked, and calls connect, if
// given, before its process begins.
func (s *Server) startAsked(ctx context.Context, t target, connect func(*runtime.Container) error) error {
	if t.e == nil {
		return refused("container %q belongs to Kubernetes, which starts its containers itself", s.title(t))
	}
	unlock, err := t.e.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	t.e.endWait()
	st := t.c.Status()
	if st.Paused {
		return refused("container %q is paused: \"cri-node unpause %s\" lets it go on", t.e.name(), t.e.name())
	}
	if st.State == runtime.Running {
		if connect != nil {
			return connect(t.c)
		}
		return nil
	}
	err = s.update(t.e, func(r *record) { r.Stopped, r.Restarts, r.Wait = false, 0, 0 })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer cancel()
	return s.start(ctx, t.e, connect)
}

// start brings a container to life that is Created or Exited. The caller has
// locked it.
func (s *Server) start(ctx context.Context, e *entry, connect func(*runtime.Container) error) (err error) {
	begin := time.Now()
	defer func() {
		s.config.CRI.Note(cri.Done{At: begin, Took: time.Since(begin), Method: "StartContainer", ContainerID: e.id, Err: err})
	}()
	c, err := s.config.Containers.Get(e.id)
	if err != nil {
		return err
	}
	if c.Status().State == runtime.Exited {
		// Its end has to be dealt with first, as long as there is one.
		s.settle(e, c)
		if err := s.renew(ctx, e); err != nil {
			return err
		}
	}
	s.refreshHosts(ctx, e.record().PodID)
	if connect != nil {
		if err := connect(c); err != nil {
			return err
		}
	}
	if _, err := s.config.CRI.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: e.id}); err != nil {
		return inWords(err)
	}
	e.begun()
	err = s.update(e, func(r *record) { r.Started, r.HealthStatus = true, "" })
	s.startHealth(e, c) //nolint:contextcheck // it outlives the call
	return err
}

// Stop ends a container, and its restarts. One that does not run is a success.
func (s *containers) Stop(ctx context.Context, r *nodev1.StopRequest) (*nodev1.StopResponse, error) {
	t, err := s.findToChange(r.GetContainer(), r.GetForce())
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return &nodev1.StopResponse{}, s.stop(ctx, t, r.GetSignal(), r.Timeout)
}

// stop ends a container for good.
func (s *Server) stop(ctx context.Context, t target, signal string, timeout *int64) error {
	if t.e == nil {
		_, err := s.config.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: t.c.ID(), Timeout: s.patience(t, timeout)})
		return err
	}
	unlock, err := t.e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil // it was to go when it exits, and has
	}
	if err != nil {
		return err
	}
	defer unlock()
	return s.stopLocked(ctx, t, signal, timeout)
}

func (s *Server) stopLocked(ctx context.Context, t target, signal string, timeout *int64) error {
	if err := s.dontRestart(t.e); err != nil {
		return err
	}
	if t.c.Status().State == runtime.Running {
		if err := s.end(ctx, t, signal, timeout); err != nil {
			return err
		}
		s.tell(t, "stop", nil)
	}
	if t.c.Status().State == runtime.Exited {
		return s.finish(ctx, t.e, t.c)
	}
	return nil
}

// dontRestart makes a container's restart policy rest.
func (s *Server) dontRestart(e *entry) error {
	e.endWait()
	if e.record().Stopped {
		return nil
	}
	return s.update(e, func(r *record) { r.Stopped = true })
}

// patience is how long a container may take to end, in seconds.
func (s *Server) patience(t target, asked *int64) int64 {
	if asked == nil && t.e != nil {
		asked = t.e.record().StopTimeout
	}
	switch {
	case asked == nil:
		return defaultStopTimeout
	case *asked < 0:
		return math.MaxInt64
	}
	return *asked
}

// end sends a running container its stop signal, or another, and after its time
// SIGKILL.
func (s *Server) end(ctx context.Context, t target, signal string, timeout *int64) error {
	patience := s.patience(t, timeout)
	if signal == "" {
		_, err := s.config.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: t.c.ID(), Timeout: patience})
		return err
	}
	sig, err := runtime.ParseSignal(signal)
	if err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	exited := t.c.Exited()
	if err := s.signal(ctx, t, sig); err != nil {
		return err
	}
	if t.c.Status().Paused {
		if err := t.c.Unpause(ctx); err != nil {
			return err
		}
	}
	wait := time.NewTimer(time.Duration(min(patience, math.MaxInt64/int64(time.Second))) * time.Second)
	defer wait.Stop()
	select {
	case <-exited:
		return nil
	case <-wait.C:
	case <-ctx.Done():
		return fmt.Errorf("wait for container %q to stop: %w", s.title(t), context.Cause(ctx))
	}
	_, err = s.config.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: t.c.ID()})
	return err
}

// signal sends a signal to a running container.
func (s *Server) signal(ctx context.Context, t target, sig unix.Signal) error {
	if t.c.Status().State != runtime.Running {
		return refused("container %q does not run", s.title(t))
	}
	if sig == unix.SIGKILL {
		_, err := s.config.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: t.c.ID()})
		return err
	}
	return t.c.Signal(ctx, sig)
}

// Restart stops a container and starts it again.
func (s *containers) Restart(ctx context.Context, r *nodev1.RestartRequest) (*nodev1.RestartResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	if t.e == nil {
		return nil, refused("container %q belongs to Kubernetes, which makes a new one instead: kill it, with --force", s.title(t))
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	unlock, err := t.e.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	t.e.endWait()
	if t.c.Status().State == runtime.Running {
		// Without --rm and the like: it comes back at once.
		if err := s.end(ctx, t, r.GetSignal(), r.Timeout); err != nil {
			return nil, err
		}
	}
	if err := s.update(t.e, func(r *record) { r.Stopped, r.Restarts, r.Wait = false, 0, 0 }); err != nil {
		return nil, err
	}
	work, stop := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer stop()
	if err := s.start(work, t.e, nil); err != nil {
		return nil, err
	}
	s.tell(t, "restart", nil)
	return &nodev1.RestartResponse{}, nil
}

// asksForEnd reports whether somebody who sends a signal wants the container to
// end: its restart policy rests then.
func asksForEnd(st *runtime.Status, sig unix.Signal) bool {
	if slices.Contains([]unix.Signal{unix.SIGKILL, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT}, sig) {
		return true
	}
	own, err := runtime.ParseSignal(st.StopSignal)
	return err == nil && own == sig
}

// Kill sends a signal to a container. One that asks for its end makes its restart
// policy rest.
func (s *containers) Kill(ctx context.Context, r *nodev1.KillRequest) (*nodev1.KillResponse, error) {
	t, err := s.findToChange(r.GetContainer(), r.GetForce())
	if err != nil {
		return nil, err
	}
	sig := unix.SIGKILL
	if r.GetSignal() != "" {
		if sig, err = runtime.ParseSignal(r.GetSignal()); err != nil {
			return nil, fmt.Errorf("signal: %w", err)
		}
	}
	st := t.c.Status()
	if st.State != runtime.Running && (t.e == nil || !t.e.isWaiting()) {
		return nil, refused("container %q does not run", s.title(t))
	}
	if t.e != nil && asksForEnd(st, sig) {
		if err := s.dontRestart(t.e); err != nil {
			return nil, err
		}
	}
	if t.c.Status().State == runtime.Running {
		if err := s.signal(ctx, t, sig); err != nil {
			return nil, err
		}
	}
	s.tell(t, "kill", map[string]string{"signal": fmt.Sprint(int(sig))})
	if t.e == nil || sig != unix.SIGKILL {
		return &nodev1.KillResponse{}, nil
	}
	unlock, err := t.e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return &nodev1.KillResponse{}, nil // it was to go when it exits, and has
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if t.c.Status().State != runtime.Exited || !t.e.record().Stopped {
		return &nodev1.KillResponse{}, nil
	}
	return &nodev1.KillResponse{}, s.finish(ctx, t.e, t.c)
}

// Pause stops the processes of a container where they are.
func (s *containers) Pause(ctx context.Context, r *nodev1.PauseRequest) (*nodev1.PauseResponse, error) {
	t, err := s.findToChange(r.GetContainer(), r.GetForce())
	if err != nil {
		return nil, err
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	st := t.c.Status()
	switch {
	case st.State != runtime.Running:
		return nil, refused("container %q does not run", s.title(t))
	case st.Paused:
		return nil, refused("container %q is paused already", s.title(t))
	}
	if err := t.c.Pause(ctx); err != nil {
		return nil, err
	}
	s.stopHealth(t.e)
	return &nodev1.PauseResponse{}, nil
}

// Unpause lets the processes of a paused container go on.
func (s *containers) Unpause(ctx context.Context, r *nodev1.UnpauseRequest) (*nodev1.UnpauseResponse, error) {
	t, err := s.findToChange(r.GetContainer(), r.GetForce())
	if err != nil {
		return nil, err
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !t.c.Status().Paused {
		return nil, refused("container %q is not paused", s.title(t))
	}
	if err := t.c.Unpause(ctx); err != nil {
		return nil, err
	}
	if t.e != nil {
		s.startHealth(t.e, t.c) //nolint:contextcheck // it outlives the call
	}
	return &nodev1.UnpauseResponse{}, nil
}
