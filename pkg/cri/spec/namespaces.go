package spec

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespaceOptions are the container's own or, where it has none, the pod's.
func (b *builder) namespaceOptions() *runtimeapi.NamespaceOption {
	if o := b.sc.GetNamespaceOptions(); o != nil {
		return o
	}
	return sandboxNamespaces(b.in.Sandbox)
}

func sandboxNamespaces(sandbox *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// setNamespaces lists the namespaces to make or join; the host's are those not
// listed. There is no hostname in the spec: the UTS namespace is the pod's,
// which has its name already.
func (b *builder) setNamespaces(context.Context) error {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(t specs.LinuxNamespaceType, path string) {
		if path != "" {
			list = append(list, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	if u := b.in.Pod.UserNS; u != nil {
		join(specs.UserNamespace, u.Path)
		if !b.in.Runtime.ReadsUserNS {
			b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ociMappings(u.UIDs), ociMappings(u.GIDs)
		}
	}
	join(specs.NetworkNamespace, b.in.Pod.NetNS)
	join(specs.IPCNamespace, b.in.Pod.IPCNS)
	join(specs.UTSNamespace, b.in.Pod.UTSNS)

	field := fieldSecurity + ".namespace_options.pid"
	switch b.pidMode() {
	case runtimeapi.NamespaceMode_CONTAINER:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeapi.NamespaceMode_POD:
		if b.in.Pod.PIDNS == "" {
			return precondition(field, "POD, but the sandbox has no PID namespace")
		}
		join(specs.PIDNamespace, b.in.Pod.PIDNS)
	case runtimeapi.NamespaceMode_TARGET:
		if b.in.Pod.TargetPIDNS == "" {
			return precondition(field, "target container has no PID namespace")
		}
		join(specs.PIDNamespace, b.in.Pod.TargetPIDNS)
	case runtimeapi.NamespaceMode_NODE:
	}
	// Privileged containers manage the machine's cgroups; on version 1 the
	// runtime hides the rest of the tree by what it mounts.
	if b.in.Host.CgroupV2 && !b.sc.GetPrivileged() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	b.spec.Linux.Namespaces = list
	return nil
}

// pidMode is the mode of the PID namespace. POD is also what a client sends
// that sets another option and leaves this one alone, and means whatever the
// pod has.
func (b *builder) pidMode() runtimeapi.NamespaceMode {
	mode := b.namespaceOptions().GetPid()
	if mode == runtimeapi.NamespaceMode_POD {
		mode = sandboxNamespaces(b.in.Sandbox).GetPid()
	}
	return mode
}
