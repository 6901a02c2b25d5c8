package nri

import (
	"maps"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// Pod is a pod as the node knows it.
type Pod struct {
	Status sandbox.Status
	Config *runtimeapi.PodSandboxConfig
}

// Container is a container as the node knows it.
type Container struct {
	Status *runtime.Status
	Config *runtimeapi.ContainerConfig
	// Image is the name of the image and ImageRef its digest with a name.
	Image, ImageRef string
	// Spec may be nil where it cannot be read.
	Spec *specs.Spec
}

// pod asks the node for a pod and translates it.
func (m *Manager) pod(id string) (*api.PodSandbox, error) {
	var t *api.PodSandbox
	err := m.guard("pod", func() error {
		p, err := m.node.Pod(id)
		if err != nil {
			return err
		}
		t = p.translate()
		return nil
	})
	return t, err
}

// container asks the node for a container and translates it, in the state in
// which plugins know it.
func (m *Manager) container(o *object) (*api.Container, error) {
	m.mu.Lock()
	pending, phase := o.spec, o.phase
	m.mu.Unlock()
	var t *api.Container
	err := m.guard("container", func() error {
		c, err := m.node.Container(o.id)
		if err != nil {
			return err
		}
		if c.Spec == nil {
			c.Spec = pending
		}
		t = c.translate()
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.State = [...]api.ContainerState{
		phaseCreated: api.ContainerState_CONTAINER_CREATED,
		phaseStarted: api.ContainerState_CONTAINER_RUNNING,
		phaseStopped: api.ContainerState_CONTAINER_STOPPED,
	}[phase]
	return t, nil
}

func (p *Pod) translate() *api.PodSandbox {
	st, linux := &p.Status, p.Config.GetLinux()
	t := &api.PodSandbox{
		Id: st.ID, Name: st.Params.Name, Namespace: st.Params.Namespace, Uid: st.Params.UID,
		Labels: maps.Clone(st.Params.Labels), Annotations: maps.Clone(st.Params.Annotations),
		RuntimeHandler: st.Params.RuntimeHandler,
		Linux: &api.LinuxPodSandbox{
			PodOverhead:  fromCRI(linux.GetOverhead()),
			PodResources: fromCRI(linux.GetResources()),
			CgroupParent: st.Params.CgroupParent,
			CgroupsPath:  st.Params.CgroupParent,
		},
	}
	for _, ip := range st.IPs {
		t.Ips = append(t.Ips, ip.String())
	}
	if st.State == sandbox.NotReady {
		return t // its namespaces are gone
	}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		path string
	}{
		{specs.NetworkNamespace, st.Namespaces.Net},
		{specs.IPCNamespace, st.Namespaces.IPC},
		{specs.UTSNamespace, st.Namespaces.UTS},
	} {
		if n.path != "" {
			t.Linux.Namespaces = append(t.Linux.Namespaces, &api.LinuxNamespace{Type: string(n.kind), Path: n.path})
		}
	}
	return t
}

func (c *Container) translate() *api.Container {
	st := c.Status
	t := &api.Container{
		Id: st.ID, PodSandboxId: st.Group, Name: st.Name,
		Labels: maps.Clone(st.Labels), Annotations: maps.Clone(st.Annotations),
		Pid:       uint32(max(st.Process.PID, 0)),
		CreatedAt: nanoseconds(st.CreatedAt), StartedAt: nanoseconds(st.StartedAt), FinishedAt: nanoseconds(st.FinishedAt),
		ExitCode: int32(st.ExitCode), StatusReason: st.Reason, StatusMessage: st.Message,
		Image: &api.Image{Name: c.Image, ConfigDigest: st.ImageID},
		Linux: &api.LinuxContainer{SeccompProfile: seccompProfile(c.Config, c.Spec)},
	}
	if _, digest, ok := strings.Cut(c.ImageRef, "@"); ok {
		t.Image.Digest = digest
	}
	for _, d := range c.Config.GetCDIDevices() {
		t.CDIDevices = append(t.CDIDevices, &api.CDIDevice{Name: d.GetName()})
	}
	if c.Spec == nil {
		return t
	}
	t.Mounts = api.FromOCIMounts(c.Spec.Mounts)
	t.Hooks = api.FromOCIHooks(c.Spec.Hooks)
	translateProcess(t, c.Spec.Process)
	translateLinux(t.Linux, c.Spec.Linux)
	if current := fromCRI(c.Config.GetLinux().GetResources()); current != nil && st.State != runtime.Creating {
		t.Linux.Resources = overlay(t.Linux.Resources, current)
	}
	return t
}

func translateProcess(t *api.Container, p *specs.Process) {
	if p == nil {
		return
	}
	t.Args, t.Env = api.DupStringSlice(p.Args), api.DupStringSlice(p.Env)
	t.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: append([]uint32(nil), p.User.AdditionalGids...)}
	for _, l := range p.Rlimits {
		t.Rlimits = append(t.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
	}
	t.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
	t.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
	t.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
}

func translateLinux(t *api.LinuxContainer, l *specs.Linux) {
	if l == nil {
		return
	}
	t.Namespaces = api.FromOCILinuxNamespaces(l.Namespaces)
	t.Devices = api.FromOCILinuxDevices(l.Devices)
	t.Resources = api.FromOCILinuxResources(l.Resources, nil)
	t.CgroupsPath = l.CgroupsPath
	if l.Seccomp != nil {
		t.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
	}
	t.Sysctl = maps.Clone(l.Sysctl)
	t.NetDevices = api.FromOCILinuxNetDevices(l.NetDevices)
	if rdt := l.IntelRdt; rdt != nil {
		t.Rdt = &api.LinuxRdt{ClosId: api.String(rdt.ClosID), EnableMonitoring: api.Bool(rdt.EnableMonitoring)}
		if rdt.Schemata != nil {
			t.Rdt.Schemata = api.RepeatedString(rdt.Schemata)
		}
	}
}

func seccompProfile(config *runtimeapi.ContainerConfig, spec *specs.Spec) *api.SecurityProfile {
	asked := config.GetLinux().GetSecurityContext().GetSeccomp()
	switch {
	case asked.GetProfileType() == runtimeapi.SecurityProfile_Localhost && asked != nil:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_LOCALHOST, LocalhostRef: asked.GetLocalhostRef()}
	case spec != nil && spec.Linux != nil && spec.Linux.Seccomp != nil,
		spec == nil && asked != nil && asked.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_RUNTIME_DEFAULT}
	default:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_UNCONFINED}
	}
}

// nanoseconds is 0 for a time that has not come.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
