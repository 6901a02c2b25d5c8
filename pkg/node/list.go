package node

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// List describes all containers, people's and kubelet's, the newest first.
func (s *containers) List(_ context.Context, r *nodev1.ListRequest) (*nodev1.ListResponse, error) {
	response := &nodev1.ListResponse{}
	for _, c := range s.config.Containers.List() {
		if t, ok := s.seen(c); ok {
			response.Containers = append(response.Containers, s.describe(t, r.GetSize()))
		}
	}
	slices.SortFunc(response.Containers, func(a, b *nodev1.Container) int {
		if c := cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()); c != 0 {
			return c
		}
		return cmp.Compare(a.GetId(), b.GetId())
	})
	return response, nil
}

// describe is a container as lists show it. It does not touch the disk, unless
// the size is wanted.
func (s *Server) describe(t target, size bool) *nodev1.Container {
	st := t.c.Status()
	m := &nodev1.Container{
		Id: st.ID, Name: st.Name, PodId: st.Group, Kubernetes: t.e == nil,
		ImageId: st.ImageID, CreatedAt: nanoseconds(st.CreatedAt), StartedAt: nanoseconds(st.StartedAt), FinishedAt: nanoseconds(st.FinishedAt),
		State: t.e.state(st), ExitCode: int32(st.ExitCode), Reason: st.Reason, Message: st.Message,
		Labels: shown(st.Labels), LogPath: st.LogPath, Tty: st.TTY, Handler: st.Handler,
	}
	if st.State == runtime.Running {
		m.Pid = int64(st.Process.PID)
	}
	if sb, err := s.config.Sandboxes.Get(st.Group); err == nil {
		pod := sb.Status()
		m.Pod, m.Namespace = pod.Params.Name, pod.Params.Namespace
	}
	for _, ip := range s.addresses(st.Group) {
		m.Ips = append(m.Ips, ip.String())
	}
	if config, err := s.config.CRI.PodConfig(st.Group); err == nil {
		m.Ports = ports(config)
	}
	m.Image = s.imageName(t)
	config, err := s.config.CRI.ContainerConfig(st.ID)
	if err != nil {
		config = &runtimeapi.ContainerConfig{}
	}
	var volumes []mounted
	if t.e != nil {
		r := t.e.record()
		m.Name, m.Command, m.Restarts, volumes = r.Name, r.Command, r.Restarts, r.Volumes
		m.Health = string(t.e.healthState().Status)
		for _, n := range r.Networks {
			m.Networks = append(m.Networks, n.Network)
		}
		for _, x := range r.request().GetTmpfs() {
			m.Mounts = append(m.Mounts, &nodev1.Mount{Type: "tmpfs", Destination: x.GetPath()})
		}
	} else {
		m.Restarts = st.Attempt
		if img, err := s.config.Images.Resolve(st.ImageID); err == nil {
			m.Command = command(config, &img.Config, false)
		} else {
			m.Command = slices.Concat(config.GetCommand(), config.GetArgs())
		}
	}
	m.Mounts = append(mounts(config, volumes), m.Mounts...)
	if size {
		s.measure(t.c, m)
	}
	return m
}

// measure adds how much a container has written.
func (s *Server) measure(c *runtime.Container, m *nodev1.Container) {
	usage, _, err := s.config.Images.RootfsUsage(c.ID(), c.RootfsPath())
	if err == nil {
		m.SizeRw = usage.Bytes
	}
	m.SizeRootfs = m.GetSizeRw()
	if img, err := s.config.Images.Resolve(c.Status().ImageID); err == nil {
		m.SizeRootfs += int64(img.Size)
	}
}

func mounts(config *runtimeapi.ContainerConfig, volumes []mounted) []*nodev1.Mount {
	var list []*nodev1.Mount
	for _, m := range config.GetMounts() {
		x := &nodev1.Mount{Type: "bind", Source: m.GetHostPath(), Destination: m.GetContainerPath(), Readonly: m.GetReadonly()}
		if m.GetImage() != nil {
			x.Type, x.Source = "image", m.GetImage().GetImage()
		}
		if i := slices.IndexFunc(volumes, func(v mounted) bool { return v.Path == m.GetContainerPath() }); i >= 0 {
			x.Type, x.Source = "volume", volumes[i].Name
		}
		list = append(list, x)
	}
	return list
}

func ports(config *runtimeapi.PodSandboxConfig) []*nodev1.Port {
	var list []*nodev1.Port
	for _, p := range config.GetPortMappings() {
		list = append(list, &nodev1.Port{
			HostIp: p.GetHostIp(), HostPort: uint32(p.GetHostPort()), ContainerPort: uint32(p.GetContainerPort()), Protocol: protocol(p.GetProtocol()),
		})
	}
	return list
}

func protocol(p runtimeapi.Protocol) string {
	switch p {
	case runtimeapi.Protocol_UDP:
		return "udp"
	case runtimeapi.Protocol_SCTP:
		return "sctp"
	default:
		return "tcp"
	}
}

// addresses of a pod, while it has them.
func (s *Server) addresses(podID string) []netip.Addr {
	sb, err := s.config.Sandboxes.Get(podID)
	if err != nil {
		return nil
	}
	return sb.Status().IPs
}

// imageName is what a container's image was called when it was made.
func (s *Server) imageName(t target) string {
	if t.e != nil {
		if name := t.e.record().Image; name != "" {
			return name
		}
	}
	if config, err := s.config.CRI.ContainerConfig(t.c.ID()); err == nil {
		for _, name := range []string{config.GetImage().GetUserSpecifiedImage(), config.GetImage().GetImage()} {
			if name != "" {
				return name
			}
		}
	}
	return t.c.Status().ImageID
}

// nanoseconds of a time since 1970; 0 is never.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
