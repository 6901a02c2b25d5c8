package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/streaming"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// PortForward returns the URL under which a client reaches ports of a pod. The
// request names ports only on behalf of clients of one old protocol.
func (s *Server) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	ports := make([]uint16, len(r.GetPort()))
	for i, port := range r.GetPort() {
		if port < 1 || port > 65535 {
			return nil, fmt.Errorf("port[%d]: %d is no port: %w", i, port, errdefs.ErrInvalidArgument)
		}
		ports[i] = uint16(port)
	}
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st := sb.Status()
	if st.State != sandbox.Ready {
		return nil, fmt.Errorf("sandbox %s is %s, not %s: %w", st.ID, st.State, sandbox.Ready, errdefs.ErrFailedPrecondition)
	}
	streams, err := s.streams()
	if err != nil {
		return nil, err
	}
	url, err := streams.PortForward(streaming.PortForward{SandboxID: st.ID, Ports: ports})
	if err != nil {
		return nil, fmt.Errorf("forward ports of sandbox %s: %w", st.ID, err)
	}
	return &runtimeapi.PortForwardResponse{Url: url}, nil
}
