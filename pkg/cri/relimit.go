package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// RelimitContainer changes the limits that a container which has exited is made
// with when it is renewed. It must have an owner.
func (s *Server) RelimitContainer(_ context.Context, id string, update *runtimeapi.LinuxContainerResources) error {
	c, err := s.findContainer(id)
	if err != nil {
		return err
	}
	st := c.Status()
	if st.Owner == "" || st.State != runtime.Exited {
		return fmt.Errorf("container %s is %s, or a client of CRI made it: %w", c.ID(), st.State, errdefs.ErrFailedPrecondition)
	}
	view := s.containerView(st)
	limits, err := spec.UpdateLimits(spec.Limits{CRI: view.Config.GetLinux().GetResources()}, update, s.specHost())
	if err != nil {
		return err
	}
	next := *view
	next.Config = withResources(view.Config, limits.CRI)
	request, err := next.encode()
	if err != nil {
		return err
	}
	return c.SetRequest(request)
}
