package cri

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// edits is an OCI spec made from a request, about to be changed by what the
// operator of the machine has installed.
type edits struct {
	container *runtimeapi.ContainerConfig
	sandbox   *runtimeapi.PodSandboxConfig
	spec      *specs.Spec
}

// addEdits changes the spec of a container: CDI devices first, then the hooks
// of the machine.
func (s *Server) addEdits(_ context.Context, _ *edits) error { return nil }
