package cri

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// StopPodSandbox ends all containers of a pod and gives its network back. One
// that is not there, or stopped already, is a success.
func (s *Server) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	id, err := s.sandboxID(r.GetPodSandboxId())
	if err == nil {
		err = s.stopSandbox(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("stop sandbox %s: %w", r.GetPodSandboxId(), err)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox stops a pod and removes it with its containers.
func (s *Server) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	id, err := s.sandboxID(r.GetPodSandboxId())
	if err == nil {
		err = s.removeSandbox(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("remove sandbox %s: %w", r.GetPodSandboxId(), err)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// sandboxID completes the beginning of an id. One that begins no sandbox's stays
// what it is.
func (s *Server) sandboxID(id string) (string, error) {
	sb, err := s.findSandbox(id)
	if errdefs.IsNotFound(err) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	return sb.ID(), nil
}

func (s *Server) stopSandbox(ctx context.Context, id string) error {
	sb, err := s.sandboxes().Get(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// From here on nothing is created or started in it.
	defer s.stopping.begin(sb.ID())()
	if _, err := s.sandboxes().Get(sb.ID()); err != nil {
		s.stopping.forget(sb.ID())
		return nil // it was removed meanwhile
	}
	// Containers first: their network goes with the sandbox. The init of a
	// shared pid namespace goes last, because all others die with it.
	ctx = progress.Enter(ctx, "containers")
	containers, inits := s.members(sb.ID())
	if err := each(ctx, containers, func(c *runtime.Container) error { return s.killContainer(ctx, c) }); err != nil {
		return err
	}
	if err := each(ctx, inits, func(c *runtime.Container) error { return c.Kill(ctx) }); err != nil {
		return err
	}
	if err := s.nri.StopPodSandbox(ctx, sb.ID()); err != nil {
		return err
	}
	return s.sandboxes().Stop(ctx, sb.ID())
}

func (s *Server) removeSandbox(ctx context.Context, id string) error {
	sb, err := s.sandboxes().Get(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.stopping.begin(sb.ID())()
	if err := s.stopSandbox(ctx, sb.ID()); err != nil {
		return err
	}
	ctx = progress.Enter(ctx, "removal of containers")
	containers, inits := s.members(sb.ID())
	err = each(ctx, append(containers, inits...), func(c *runtime.Container) error {
		return s.removeContainer(ctx, c)
	})
	if err != nil {
		return err
	}
	params := sb.Status().Params
	s.nri.RemovingPodSandbox(sb.ID())
	if err := s.sandboxes().Remove(ctx, sb.ID()); err != nil {
		return err
	}
	s.nri.RemovePodSandbox(ctx, sb.ID())
	s.drop(sb.ID())
	s.stopping.forget(sb.ID())
	return s.giveBack(ctx, sb.ID(), params)
}

// members returns the containers of a sandbox, and its init where it has one.
func (s *Server) members(id string) (containers, inits []*runtime.Container) {
	for _, c := range s.config.Containers.Group(id) {
		if c.Status().Infra {
			inits = append(inits, c)
		} else {
			containers = append(containers, c)
		}
	}
	return containers, inits
}

// each does the same with all containers at once and tries every one.
func each(ctx context.Context, containers []*runtime.Container, do func(*runtime.Container) error) error {
	if len(containers) == 1 {
		return do(containers[0])
	}
	errs := make([]error, len(containers))
	var wait sync.WaitGroup
	for i, c := range containers {
		wait.Go(func() {
			errs[i] = guard.Call(klog.FromContext(ctx), "work on container "+c.ID(), func() error { return do(c) })
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
