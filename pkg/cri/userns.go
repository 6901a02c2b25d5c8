package cri

import (
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// userNamespaces reports whether pods of a handler can have user namespaces:
// the volumes that kubelet gives such a pod take ID-mapped mounts, the OCI
// runtime's for themselves and the kernel's for the image.
func (s *Server) userNamespaces(r *oci.Runtime) bool {
	return s.config.UserNamespaces && r.Features().IDMap
}

// checkUserNS refuses a pod with a user namespace that cannot be had.
func (s *Server) checkUserNS(config *runtimeapi.PodSandboxConfig, handler *oci.Runtime) error {
	if spec.UserNS(config) == nil || s.userNamespaces(handler) {
		return nil
	}
	why := "this machine has no ID-mapped mounts where images are stored, see the daemon's log"
	if s.config.UserNamespaces {
		why = fmt.Sprintf("runtime handler %q has no ID-mapped mounts", handler.Handler())
	}
	return fmt.Errorf("config.linux.security_context.namespace_options.userns_options: %s: %w", why, errdefs.ErrFailedPrecondition)
}

// userNS is the user namespace that a pod's containers join; nil is the host's.
func userNS(st *sandbox.Status) *linux.UserNS {
	if st.Namespaces.User == "" {
		return nil
	}
	return &linux.UserNS{Path: st.Namespaces.User, IDMappings: *st.Params.UserNS}
}
