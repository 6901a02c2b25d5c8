package cri

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/nri"
	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// StartContainer lets a created container's process go.
func (s *Server) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if _, err := s.readySandbox(c.Status().Group); err != nil {
		return nil, err
	}
	isCreated := func() bool { return c.Status().State == runtime.Created }
	ctx = progress.Enter(ctx, "start")
	if err := s.nri.StartContainer(ctx, c.ID(), func() error { return c.Start(ctx) }, isCreated); err != nil {
		return nil, err
	}
	// A stop of the pod that came meanwhile has not seen it running.
	if _, err := s.readySandbox(c.Status().Group); err != nil {
		return nil, errors.Join(err, s.killContainer(context.WithoutCancel(ctx), c))
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer ends a running container. One that does not run, or is not
// there, is a success.
func (s *Server) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := c.Stop(ctx, seconds(r.GetTimeout())); err != nil {
		return nil, err
	}
	if err := s.tellExit(ctx, c); err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// seconds turns a timeout of CRI into a duration without overflowing it.
func seconds(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}

// RemoveContainer removes a container, and kills it first if it runs. One that
// is not there is a success. Its log stays: that is kubelet's.
func (s *Server) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.removeContainer(ctx, c); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// killContainer ends a container at once.
func (s *Server) killContainer(ctx context.Context, c *runtime.Container) error {
	if err := c.Kill(ctx); err != nil {
		return err
	}
	return s.tellExit(ctx, c)
}

// removeContainer removes a container, in any state.
func (s *Server) removeContainer(ctx context.Context, c *runtime.Container) error {
	if err := s.killContainer(ctx, c); err != nil {
		return err
	}
	s.nri.RemovingContainer(c.ID())
	if err := c.Remove(ctx); err != nil {
		return err
	}
	s.nri.RemoveContainer(ctx, c.ID())
	s.drop(c.ID())
	return nil
}

// findContainer finds a container by its id or the beginning of it. One that
// is being created, or is the init of a pod, is not there.
func (s *Server) findContainer(id string) (*runtime.Container, error) {
	shown := func(c *runtime.Container) bool {
		st := c.Status()
		return !st.Infra && st.State != runtime.Creating
	}
	if c, err := s.config.Containers.Get(id); err == nil && shown(c) {
		return c, nil
	}
	var found *runtime.Container
	for _, c := range s.config.Containers.List() {
		if !shown(c) || !isPrefix(id, c.ID()) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("container_id: %q begins the ids of several containers: %w", id, errdefs.ErrInvalidArgument)
		}
		found = c
	}
	if found == nil {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return found, nil
}

// UpdateContainerResources changes the limits of a container.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetLinux() == nil {
		return nil, fmt.Errorf("linux: is missing: %w", errdefs.ErrInvalidArgument)
	}
	adjusted, err := s.nri.UpdateContainer(ctx, c.ID(), r.GetLinux())
	if err != nil {
		return nil, err
	}
	if err := s.updateLimits(ctx, c, r.GetLinux(), adjusted); err != nil {
		return nil, err
	}
	s.nri.PostUpdateContainer(ctx, c.ID())
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// updateLimits changes the limits of a container. What NRI's plugins made of
// the update, if not nil, goes before the update itself.
func (s *Server) updateLimits(ctx context.Context, c *runtime.Container, update *runtimeapi.LinuxContainerResources, adjusted *api.LinuxResources) error {
	if adjusted != nil {
		update = nri.ToCRI(adjusted)
	}
	created, err := c.Spec()
	if err != nil {
		return err
	}
	ctx = progress.Enter(ctx, "update")
	defer s.stats.Close(c.ID()) // which remembers limits
	return c.Update(ctx, func(st *runtime.Status) (runtime.Limits, error) {
		view := s.containerView(st)
		base := created.Linux.Resources
		if view.Limits != nil {
			base = view.Limits
		}
		current := spec.Limits{OCI: base, CRI: view.Config.GetLinux().GetResources()}
		limits, err := spec.UpdateLimits(current, update, s.specHost())
		if err != nil {
			return runtime.Limits{}, err
		}
		limits.OCI.Devices = nil // what a container may open is not up for change
		next := *view
		if nri.ApplyOthers(limits.OCI, adjusted) {
			next.Limits = limits.OCI
		}
		next.Config = withResources(view.Config, limits.CRI)
		old, err := spec.RestoreLimits(current, limits)
		if err != nil {
			return runtime.Limits{}, err
		}
		request, err := next.encode()
		return runtime.Limits{New: limits.OCI, Old: old, Request: request}, err
	})
}

// withResources returns a copy of a container's config with the limits that
// are in force.
func withResources(config *runtimeapi.ContainerConfig, resources *runtimeapi.LinuxContainerResources) *runtimeapi.ContainerConfig {
	config = proto.CloneOf(config)
	if resources == nil {
		return config
	}
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	config.Linux.Resources = resources
	return config
}

// ReopenContainerLog makes a container write to a new log file, after kubelet
// renamed the old one.
func (s *Server) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := c.ReopenLog(ctx); err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
