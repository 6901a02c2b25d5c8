package cri

import (
	"maps"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/cdi"
	"github.com/cri-node/cri-node/pkg/runtime/hooks"
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
func (s *Server) addEdits(e *edits) error {
	devices, err := cdi.Requested(e.container)
	if err != nil {
		return err
	}
	if err := s.config.CDI.Inject(e.spec, devices); err != nil {
		return err
	}
	return s.config.Hooks.Apply(e.spec, e.hookRequest())
}

// hookRequest is what hooks are chosen by. A container's annotations win over
// those of its pod.
func (e *edits) hookRequest() hooks.Request {
	r := hooks.Request{Annotations: map[string]string{}}
	maps.Copy(r.Annotations, e.sandbox.GetAnnotations())
	maps.Copy(r.Annotations, e.container.GetAnnotations())
	for _, m := range e.container.GetMounts() {
		r.BindMounts = r.BindMounts || m.GetHostPath() != ""
	}
	return r
}
