package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// RenewContainer makes a container that has exited Created again, and before
// that its pod Ready, if need be; StartContainer follows. It is made from the
// stored request anew, so that it fits what the pod has now, with the files it
// had. On an error it is Exited as before. It must have an owner: what clients
// of CRI made is made anew by them.
func (s *Server) RenewContainer(ctx context.Context, id string) error {
	c, err := s.findContainer(id)
	if err != nil {
		return err
	}
	if c.Status().Owner == "" {
		return fmt.Errorf("container %s was made by a client of CRI, which makes another one instead: %w", c.ID(), errdefs.ErrFailedPrecondition)
	}
	_, err = s.renewals.do(ctx, c.ID(), func(ctx context.Context, at *progress.Stages) (string, error) {
		ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("containerID", c.ID()))
		return c.ID(), s.renewContainer(ctx, at, c)
	})
	if err != nil {
		return fmt.Errorf("restart container %s: %w", c.ID(), err)
	}
	return nil
}

func (s *Server) renewContainer(ctx context.Context, at *progress.Stages, c *runtime.Container) error {
	old := c.Status()
	if old.State != runtime.Exited {
		return fmt.Errorf("it is %s, not %s: %w", old.State, runtime.Exited, errdefs.ErrFailedPrecondition)
	}
	// 1. Its pod, and what it was made from.
	ctx = at.Enter(ctx, "pod")
	if err := s.RevivePod(ctx, old.Group); err != nil {
		return err
	}
	sb, err := s.readySandbox(old.Group)
	if err != nil {
		return err
	}
	pod := sb.Status()
	q, err := s.renewal(&pod, old)
	if err != nil {
		return err
	}
	// 2. Its root file system, which is not there after a reboot.
	ctx = at.Enter(ctx, "root file system")
	if err := c.MountRootfs(ctx); err != nil {
		return err
	}
	// 3. The OCI spec. To plugins this is another container.
	ctx = at.Enter(ctx, "OCI spec")
	if err := s.tellExit(ctx, c); err != nil {
		return err
	}
	s.nri.RemoveContainer(ctx, c.ID())
	options, err := s.createOptions(ctx, c, q)
	if err != nil {
		s.nri.RemoveContainer(ctx, c.ID())
		return err
	}
	// 4. Namespaces and process.
	ctx = at.Enter(ctx, "OCI runtime")
	if err := c.Renew(ctx, options); err != nil {
		s.nri.RemoveContainer(ctx, c.ID())
		return err
	}
	s.stats.Drop(c.ID()) // its counters begin anew
	// 5. A stop that came meanwhile has not seen it.
	if _, err := s.readySandbox(pod.ID); err != nil {
		return errors.Join(err, s.killContainer(context.WithoutCancel(ctx), c))
	}
	s.nri.PostCreateContainer(ctx, c.ID())
	return nil
}

// renewal is the request that a container was made from.
func (s *Server) renewal(pod *sandbox.Status, st *runtime.Status) (*creation, error) {
	view := s.containerView(st)
	if view.Extras == nil || view.Image == nil {
		return nil, fmt.Errorf("its record does not say what it was made from: %w", errdefs.ErrFailedPrecondition)
	}
	handler, err := s.handler(st.Handler)
	if err != nil {
		return nil, err
	}
	q := &creation{
		pod: pod, config: view.Config, extras: *view.Extras, renewed: true, handler: handler,
		// The image itself may be gone, or its name be another's by now.
		image: &image.Image{ID: st.ImageID, Config: *view.Image, Digests: []string{view.ImageRef}},
	}
	_, q.cgroupsPath = s.containerCgroup(pod.Params.CgroupParent, st.ID)
	return q, nil
}

// RevivePod makes a pod Ready again that has been stopped, or has lost what it
// had with a reboot. One that is Ready is a success. It must have an owner.
func (s *Server) RevivePod(ctx context.Context, id string) error {
	sb, err := s.findSandbox(id)
	if err != nil {
		return err
	}
	if _, err := s.readySandbox(sb.ID()); err == nil {
		return nil
	}
	if sb.Status().Params.Owner == "" {
		return fmt.Errorf("sandbox %s was made by a client of CRI, which makes another one instead: %w", sb.ID(), errdefs.ErrFailedPrecondition)
	}
	_, err = s.revivals.do(ctx, sb.ID(), func(ctx context.Context, at *progress.Stages) (string, error) {
		return sb.ID(), s.revivePod(ctx, at, sb)
	})
	if err != nil {
		return fmt.Errorf("bring back sandbox %s: %w", sb.ID(), err)
	}
	return nil
}

func (s *Server) revivePod(ctx context.Context, at *progress.Stages, sb *sandbox.Sandbox) error {
	if _, err := s.readySandbox(sb.ID()); err == nil {
		return nil // somebody was faster
	}
	// 1. What is left of it. Nobody else may be about to stop it.
	ctx = at.Enter(ctx, "stop")
	if err := s.stopSandbox(ctx, sb.ID()); err != nil {
		return err
	}
	if !s.stopping.lift(sb.ID()) {
		return fmt.Errorf("it is being stopped: %w", errdefs.ErrUnavailable)
	}
	// 2. The cgroup parent, which goes with a reboot.
	st := sb.Status()
	if dir := s.cgroupDir(st.Params.CgroupParent); !s.config.Cgroups.Exists(dir) {
		if err := s.config.Cgroups.Create(dir); err != nil {
			return err
		}
	}
	// 3. Namespaces, files, network: the stages are the sandbox's own.
	if err := s.sandboxes().Revive(ctx, sb.ID()); err != nil {
		return err
	}
	s.stats.Drop(sb.ID())
	s.stats.Drop(sb.ID() + podCgroup)
	// 4. The rest of what runSandbox does. To plugins this is another pod.
	if err := s.finishRevival(ctx, at, sb); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(progress.Enter(ctx, "undo")), undoTimeout)
		defer cancel()
		return errors.Join(err, s.stopSandbox(progress.Listen(ctx, nil), sb.ID()))
	}
	return nil
}

func (s *Server) finishRevival(ctx context.Context, at *progress.Stages, sb *sandbox.Sandbox) error {
	st := sb.Status()
	if err := s.labelFiles(&st); err != nil {
		return err
	}
	if st.Params.SharedPID {
		ctx = at.Enter(ctx, "init of the pid namespace")
		handler, err := s.handler(st.Params.RuntimeHandler)
		if err != nil {
			return err
		}
		if err := s.config.Containers.Remove(ctx, st.ID); err != nil {
			return err
		}
		if err := s.startInfra(ctx, st, handler); err != nil {
			return err
		}
	}
	s.nri.RemovingPodSandbox(st.ID)
	s.nri.RemovePodSandbox(ctx, st.ID)
	return s.nri.RunPodSandbox(ctx, st.ID, func() error { return nil })
}
