package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
)

// UpdatePodSandboxResources takes note of the limits kubelet has given a pod's
// cgroup, which is kubelet's, and tells plugins.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if r.GetOverhead() == nil && r.GetResources() == nil {
		return nil, fmt.Errorf("overhead, resources: both are missing: %w", errdefs.ErrInvalidArgument)
	}
	if err := spec.ValidateSandboxResources("", r.GetOverhead(), r.GetResources()); err != nil {
		return nil, err
	}
	s.stats.Close(sb.ID() + podCgroup) // which remembers limits
	if err := s.nri.UpdatePodSandbox(ctx, sb.ID(), r.GetOverhead(), r.GetResources()); err != nil {
		return nil, err
	}
	err = sb.UpdateRequest(ctx, func(request []byte) ([]byte, error) {
		view := &sandboxView{Config: &runtimeapi.PodSandboxConfig{}}
		if err := decodeView(request, view.Config, view); err != nil {
			return nil, err
		}
		if view.Config.Linux == nil {
			view.Config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
		}
		if r.GetOverhead() != nil {
			view.Config.Linux.Overhead = proto.CloneOf(r.GetOverhead())
		}
		if r.GetResources() != nil {
			view.Config.Linux.Resources = proto.CloneOf(r.GetResources())
		}
		return view.encode()
	})
	if err != nil {
		return nil, err
	}
	s.nri.PostUpdatePodSandbox(ctx, sb.ID())
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
