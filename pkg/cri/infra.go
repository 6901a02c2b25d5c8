package cri

import (
	"context"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/infra"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// infraOOMScore keeps the init of a pod from being the first to go when memory
// runs out: with it the whole pod would.
const infraOOMScore = -998

// startInfra runs the init of a pod's shared pid namespace. It is a container
// like the others, with the sandbox's id, that no list shows.
func (s *Server) startInfra(ctx context.Context, st sandbox.Status, handler *oci.Runtime) error {
	cgroup, cgroupsPath := s.containerCgroup(st.Params.CgroupParent, st.ID)
	c, err := s.config.Containers.Prepare(ctx, runtime.Params{
		ID: st.ID, Group: st.ID, Infra: true, Owner: st.Params.Owner, Handler: handler.Handler(), Cgroup: cgroup, UserNS: userNS(&st),
	})
	if err != nil {
		return fmt.Errorf("prepare the init of the pid namespace: %w", err)
	}
	err = c.Create(ctx, runtime.CreateOptions{Spec: infra.Spec(infra.Params{
		OCIVersion:  handler.Features().OCIVersion,
		RootDir:     s.config.InfraRoot,
		CgroupsPath: cgroupsPath,
		Namespaces:  podNamespaces(st.Namespaces),
		UserNS:      userNS(&st),
		ReadsUserNS: handler.Features().ReadsUserNS,
		OOMScoreAdj: max(infraOOMScore, s.host.oomScoreFloor),
	})})
	if err != nil {
		return fmt.Errorf("create the init of the pid namespace: %w", err)
	}
	if err := c.Start(ctx); err != nil {
		return fmt.Errorf("start the init of the pid namespace: %w", err)
	}
	return nil
}

// podNamespaces names a pod's own namespaces by type.
func podNamespaces(n sandbox.Namespaces) map[specs.LinuxNamespaceType]string {
	paths := map[specs.LinuxNamespaceType]string{}
	for kind, path := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: n.Net, specs.IPCNamespace: n.IPC, specs.UTSNamespace: n.UTS,
	} {
		if path != "" {
			paths[kind] = path
		}
	}
	return paths
}
