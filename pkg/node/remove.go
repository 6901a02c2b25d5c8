package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// The shortest and the longest wait before what could not be removed is tried
// again.
const (
	minRetry = time.Second
	maxRetry = time.Minute
)

// Remove removes a container, and its pod with the last container in it.
func (s *containers) Remove(ctx context.Context, r *nodev1.RemoveRequest) (*nodev1.RemoveResponse, error) {
	t, err := s.findToChange(r.GetContainer(), r.GetForce())
	if err != nil {
		return nil, err
	}
	if t.e == nil {
		_, err := s.config.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: t.c.ID()})
		return &nodev1.RemoveResponse{}, err
	}
	unlock, err := t.e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return &nodev1.RemoveResponse{}, nil // another removed it meanwhile
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if t.c.Status().State == runtime.Running && !r.GetForce() {
		return nil, refused("container %q is running: \"cri-node stop %s\" first, or remove it with --force", t.e.name(), t.e.name())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	return &nodev1.RemoveResponse{}, s.remove(ctx, t.e, r.GetVolumes())
}

// remove removes a container in any state, with the volumes that were made for
// it if anonymous says so. The caller has locked it.
func (s *Server) remove(ctx context.Context, e *entry, anonymous bool) error {
	e.endWait()
	s.insist(ctx, e, func(r *record) { r.Stopped, r.Removing, r.TakeVolumes = true, true, anonymous })
	err := s.takeDown(ctx, e)
	if err == nil {
		return nil
	}
	if !e.isGone() {
		s.insist(ctx, e, func(r *record) { r.Removing = false })
	}
	return fmt.Errorf("remove container %q: %w", e.name(), err)
}

// removeItself is remove for a container that goes when it exits: nobody is
// there who would try again.
func (s *Server) removeItself(ctx context.Context, e *entry) error {
	err := s.remove(ctx, e, true)
	if err != nil && !e.isGone() {
		e.delay()
		s.removeLater(e) //nolint:contextcheck // it outlives the call
	}
	return err
}

// takeDown removes a container, and then the rest of it. The rest that cannot be
// removed nobody could name any more: it is tried again until it is gone. Where
// the container itself cannot be removed, everything stays. The caller has locked
// it.
func (s *Server) takeDown(ctx context.Context, e *entry) error {
	s.stopHealth(e)
	begin, r := time.Now(), e.record()
	_, err := s.config.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: e.id})
	if !r.Creating {
		s.config.CRI.Note(cri.Done{At: begin, Took: time.Since(begin), Method: "RemoveContainer", Container: r.Name, SandboxID: r.PodID, ContainerID: e.id, Err: err})
	}
	if err != nil && s.hasContainer(e.id) {
		return err
	}
	s.table.forget(e)
	s.config.Changes.then(func() { s.table.left(e) })
	e.endWait()
	err = s.clear(ctx, e)
	s.bury(ctx, e, err == nil)
	if err != nil {
		s.removeLater(e) //nolint:contextcheck // it outlives the call
	}
	s.refreshNetworks(ctx, e.record().Networks)
	return err
}

// clear removes what is left of a container that is gone: its pod, if nobody else
// is in it, its log and its volumes. It may be repeated, and tries every step.
func (s *Server) clear(ctx context.Context, e *entry) error {
	r := e.record()
	var errs []error
	// It is not in the table any more: of several that are removed at the same
	// time, the last one to leave finds nobody.
	if r.PodID != "" && len(s.inPod(r.PodID, e.id)) == 0 {
		_, err := s.config.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodID})
		errs = append(errs, err)
		s.hosts.drop(r.PodID)
	}
	errs = append(errs, s.removeLogs(e.id))
	if err := os.Remove(s.healthPath(e.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, v := range r.Volumes {
		if v.Made && r.Creating || v.Anonymous && r.TakeVolumes {
			errs = append(errs, s.removeUnused(v.Name))
		}
	}
	return errors.Join(errs...)
}

// bury tells that a container is gone. Its record goes when nothing is left that
// it speaks of.
func (s *Server) bury(ctx context.Context, e *entry, done bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true // from here on nobody writes the record
	if done {
		if err := os.Remove(s.recordPath(e.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "The record of a container stays until the next start", "containerID", e.id)
		}
	}
	e.broadcastLocked()
}

// removeLater goes on with a removal that has failed, until nothing is left.
func (s *Server) removeLater(e *entry) {
	s.later(e.id, func(ctx context.Context) error {
		for wait := minRetry; ; wait = min(2*wait, maxRetry) {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
			err := s.removeAgain(ctx, e)
			if err == nil {
				return nil
			}
			if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "A container cannot be removed yet", "name", e.name())
			}
		}
	})
}

func (s *Server) removeAgain(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	if e.isGone() {
		err := s.clear(ctx, e)
		s.bury(ctx, e, err == nil)
		return err
	}
	unlock, err := e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil // another removed it, and looks after the rest
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.takeDown(ctx, e); err != nil && !e.isGone() {
		return err
	}
	return nil
}

// undo removes all there is of a container whose making failed. What cannot be
// removed stays in sight, so that somebody can try again.
func (s *Server) undo(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	err := s.takeDown(ctx, e)
	if err == nil || e.isGone() {
		return err
	}
	klog.FromContext(ctx).Error(err, "A container that could not be made cannot be removed either", "containerID", e.id)
	return errors.Join(err, s.update(e, func(r *record) { r.Creating = false }))
}

func (s *Server) hasContainer(id string) bool {
	_, err := s.config.Containers.Get(id)
	return err == nil
}
