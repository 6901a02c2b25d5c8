package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/cri/streaming"
)

// Attach returns the URL under which a client gets the streams of a running
// container.
func (s *Server) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := spec.ValidateAttach(r); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	streams, err := s.streams()
	if err != nil {
		return nil, err
	}
	if has := s.containerView(c.Status()).Config.GetTty(); has != r.GetTty() {
		return nil, fmt.Errorf("tty: is %t, and that of container %s is %t: %w", r.GetTty(), c.ID(), has, errdefs.ErrInvalidArgument)
	}
	url, err := streams.Attach(streaming.Attach{ContainerID: c.ID(), Wants: wants(r)})
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", c.ID(), err)
	}
	return &runtimeapi.AttachResponse{Url: url}, nil
}
