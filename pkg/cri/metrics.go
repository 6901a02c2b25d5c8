package cri

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// baseLabels are on every metric, in the names and with the meaning that
// kubelet's /metrics/cadvisor has always had: the cgroup, the id, the image, and
// what Kubernetes calls the container, its namespace and its pod.
func baseLabels() []string { return []string{"id", "name", "image", "container", "namespace", "pod"} }

// podContainer is the container label of what is the pod's as a whole.
const podContainer = "POD"

// metricSource is what the values of one container come from.
type metricSource struct {
	now     time.Time
	member  memberReading
	detail  stats.Detail
	limits  *runtimeapi.LinuxContainerResources
	disk    disk
	layer   uint64 // bytes of the writable layer
	layered bool   // layer is known
	// names are those of block devices by their numbers.
	names map[[2]uint32]string
	// swapAlone: the swap limit does not include that of memory.
	swapAlone bool
}

// metricValue is one sample; labels come after the base labels.
type metricValue struct {
	value  uint64
	labels []string
}

// metric describes one name. Exactly one of container and nic is set.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string
	// offered: this machine can always tell; nil if every one can.
	offered   func(o linux.CgroupOffers) bool
	container func(s *metricSource) []metricValue
	nic       func(u *network.Usage) uint64
}

// metricTable is what this machine can tell.
type metricTable struct {
	metrics     []metric
	descriptors []*runtimeapi.MetricDescriptor
}

// newMetricTable leaves out what this machine does not always tell: kubelet and
// its users take an advertised metric that never comes for a fault.
func newMetricTable(o linux.CgroupOffers) metricTable {
	var t metricTable
	for _, m := range slices.Concat(cpuMetrics(), memoryMetrics(), reclaimMetrics(), diskMetrics(), processMetrics(), specMetrics(), pressureMetrics(), networkMetrics()) {
		if m.offered != nil && !m.offered(o) {
			continue
		}
		t.metrics = append(t.metrics, m)
		t.descriptors = append(t.descriptors, &runtimeapi.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: append(baseLabels(), m.labels...),
		})
	}
	return t
}

// ListMetricDescriptors describes what ListPodSandboxMetrics tells. It does not
// change while the daemon runs.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: s.metrics.descriptors}, nil
}

// ListPodSandboxMetrics reads all that monitoring wants to know of the running
// containers, now. No sample has a time of its own: each is at most as old as
// the moment for which readings are shared, and a series with times of its own
// would not end with its container.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	pods := s.readPods(ctx, s.readySandboxes(func(st *sandbox.Status) bool { return st.Params.Owner == "" }))
	var targets []stats.Target
	for _, p := range pods {
		for _, m := range p.members {
			if !m.status.Infra {
				targets = append(targets, statsTarget(m.status))
			}
		}
	}
	details := s.stats.Details(targets)
	source := metricSource{
		now: time.Now(), disk: readDisk(s.config.Root), names: map[[2]uint32]string{}, swapAlone: s.config.Cgroups.Unified(),
	}
	response := &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: make([]*runtimeapi.PodSandboxMetrics, 0, len(pods))}
	for _, p := range pods {
		out := &runtimeapi.PodSandboxMetrics{PodSandboxId: p.status.ID, Metrics: s.networkSamples(&p)}
		for _, m := range p.members {
			if m.status.Infra {
				continue
			}
			source.member, source.detail = m, details[0]
			details = details[1:]
			if source.detail.Err != nil {
				continue // it has gone meanwhile
			}
			out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{
				ContainerId: m.status.ID, Metrics: s.containerSamples(&p, &source),
			})
		}
		response.PodMetrics = append(response.PodMetrics, out)
	}
	return response, nil
}

func (s *Server) containerSamples(p *podReading, source *metricSource) []*runtimeapi.Metric {
	c, st := source.member.container, source.member.status
	view := s.containerView(st)
	source.limits = view.Config.GetLinux().GetResources()
	source.layered = false
	if u, _, err := s.config.Images.RootfsUsage(st.ID, c.RootfsPath()); err == nil {
		source.layer, source.layered = uint64(u.Bytes), true
	}
	image := view.UserSpecifiedImage
	if image == "" {
		image = view.ImageRef
	}
	key := p.status.Params.Key
	base := []string{st.Cgroup, st.ID, image, st.Name, key.Namespace, key.Name}
	var samples []*runtimeapi.Metric
	for i := range s.metrics.metrics {
		m := &s.metrics.metrics[i]
		if m.container == nil {
			continue
		}
		for _, v := range m.container(source) {
			samples = append(samples, m.sample(base, v))
		}
	}
	return samples
}

func (s *Server) networkSamples(p *podReading) []*runtimeapi.Metric {
	if p.network == nil {
		return nil
	}
	st := &p.status
	base := []string{s.cgroupDir(st.Params.CgroupParent), st.ID, "", podContainer, st.Params.Namespace, st.Params.Name}
	var samples []*runtimeapi.Metric
	for i := range s.metrics.metrics {
		m := &s.metrics.metrics[i]
		if m.nic == nil {
			continue
		}
		for n := range p.network.Interfaces {
			u := &p.network.Interfaces[n]
			samples = append(samples, m.sample(base, metricValue{m.nic(u), []string{u.Name}}))
		}
	}
	return samples
}

func (m *metric) sample(base []string, v metricValue) *runtimeapi.Metric {
	labels := base
	if len(m.labels) > 0 {
		labels = slices.Concat(base, v.labels)
	}
	return &runtimeapi.Metric{
		Name: m.name, MetricType: m.kind, LabelValues: labels, Value: &runtimeapi.UInt64Value{Value: v.value},
	}
}

// disk is the file system that writable layers are on.
type disk struct {
	known                          bool
	major, minor                   uint32
	device                         string
	bytes, inodesTotal, inodesFree uint64
}

func readDisk(path string) disk {
	var d disk
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return d
	}
	major, minor, name, err := linux.DeviceOf(path)
	if err != nil {
		return d
	}
	return disk{
		known: true, major: major, minor: minor, device: name,
		bytes: st.Blocks * uint64(st.Frsize), inodesTotal: st.Files, inodesFree: st.Ffree,
	}
}
