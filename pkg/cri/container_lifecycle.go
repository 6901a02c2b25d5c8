package cri

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
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
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	// A stop of the pod that came meanwhile has not seen it running.
	if _, err := s.readySandbox(c.Status().Group); err != nil {
		return nil, errors.Join(err, c.Kill(context.WithoutCancel(ctx)))
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
	if err := s.config.Containers.Remove(ctx, c.ID()); err != nil {
		return nil, err
	}
	s.drop(c.ID())
	return &runtimeapi.RemoveContainerResponse{}, nil
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
	created, err := c.Spec()
	if err != nil {
		return nil, err
	}
	err = c.Update(ctx, func(st *runtime.Status) (*specs.LinuxResources, []byte, error) {
		view := s.containerView(st)
		limits, err := spec.UpdateLimits(spec.Limits{OCI: created.Linux.Resources, CRI: view.Config.GetLinux().GetResources()}, r.GetLinux(), s.specHost())
		if err != nil {
			return nil, nil, err
		}
		limits.OCI.Devices = nil // what a container may open is not up for change
		next := *view
		next.Config = withResources(view.Config, limits.CRI)
		request, err := next.encode()
		return limits.OCI, request, err
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
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
