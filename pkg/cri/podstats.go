package cri

import (
	"context"
	"path"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// PodSandboxStats reads what one pod uses. One that is not there is NotFound,
// which is also the answer to the empty id that kubelet asks for to see whether
// the call is implemented. One that does not run uses nothing.
func (s *Server) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	pods := s.readPods(ctx, []sandbox.Status{sb.Status()})
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.podStats(pods[0])}, nil
}

// ListPodSandboxStats reads what the ready pods that match use.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	f := r.GetFilter()
	pods := s.readPods(ctx, s.readySandboxes(func(st *sandbox.Status) bool {
		return !hidden(st.Params.Owner, f.GetId(), f.GetLabelSelector()) &&
			(f.GetId() == "" || isPrefix(f.GetId(), st.ID)) && selects(f.GetLabelSelector(), st.Params.Labels)
	}))
	response := &runtimeapi.ListPodSandboxStatsResponse{Stats: make([]*runtimeapi.PodSandboxStats, 0, len(pods))}
	for _, p := range pods {
		response.Stats = append(response.Stats, s.podStats(p))
	}
	return response, nil
}

// readySandboxes lists the sandboxes that are ready and match.
func (s *Server) readySandboxes(match func(*sandbox.Status) bool) []sandbox.Status {
	var ready []sandbox.Status
	for _, sb := range s.sandboxes().List() {
		st := sb.Status()
		if s.sandboxState(&st) == runtimeapi.PodSandboxState_SANDBOX_READY && match(&st) {
			ready = append(ready, st)
		}
	}
	return ready
}

// podReading is all that was read of one pod.
type podReading struct {
	status  sandbox.Status
	time    time.Time
	members []memberReading
	// own is what the pod's own cgroup says; nil where it has none.
	own       *stats.Sample
	processes uint64
	// network is nil for a pod without a network of its own. That of the host is
	// not the pod's: it would be charged to each pod that shares it.
	network *stats.NetworkUsage
}

// memberReading is a container of a pod, or its init, which CRI does not show
// but which uses something.
type memberReading struct {
	container *runtime.Container
	status    *runtime.Status
	sample    stats.Sample
}

// readPods reads pods, in one pass over all cgroups and one over all networks.
func (s *Server) readPods(ctx context.Context, pods []sandbox.Status) []podReading {
	readings := make([]podReading, len(pods))
	index := make(map[string]int, len(pods))
	for i, st := range pods {
		readings[i] = podReading{status: st, time: time.Now()}
		index[st.ID] = i
	}
	var targets []stats.Target
	var take []func(stats.Sample)
	var owner []int
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		i, wanted := index[st.Group]
		if !wanted || st.State != runtime.Running {
			continue
		}
		targets, owner = append(targets, statsTarget(st)), append(owner, i)
		take = append(take, func(sample stats.Sample) {
			readings[i].members = append(readings[i].members, memberReading{c, st, sample})
		})
	}
	members := len(targets)
	shared := s.sharedParents()
	for i, st := range pods {
		parent := s.cgroupDir(st.Params.CgroupParent)
		if shared[parent] || !s.ownParent(&pods[i]) {
			continue
		}
		targets = append(targets, stats.Target{ID: st.ID + podCgroup, Cgroup: parent, Since: st.CreatedAt, Keep: st.State == sandbox.Ready})
		take = append(take, func(sample stats.Sample) { readings[i].own = &sample })
	}
	var networks sync.WaitGroup
	networks.Go(func() { s.readNetworks(ctx, readings) })
	samples := s.stats.Samples(targets)
	counts := s.stats.Processes(targets[:members])
	networks.Wait()
	for n, result := range samples {
		if result.Err == nil { // or it has gone meanwhile
			take[n](result.Sample)
		}
	}
	for n, count := range counts {
		readings[owner[n]].processes += count
	}
	return readings
}

// podCgroup is appended to the id of a pod to name its own cgroup: the id itself
// is that of its init.
const podCgroup = "/pod"

func (s *Server) readNetworks(ctx context.Context, readings []podReading) {
	var targets []stats.NetworkTarget
	var index []int
	for i, r := range readings {
		if netns := r.status.Namespaces.Net; netns != "" && r.status.State == sandbox.Ready {
			targets, index = append(targets, stats.NetworkTarget{ID: r.status.ID, Path: netns}), append(index, i)
		}
	}
	results, err := s.stats.Networks(targets)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read the network of some pods")
	}
	for n, result := range results {
		if result.Interfaces != nil {
			readings[index[n]].network = &result
		}
	}
}

// ownParent reports whether a pod was given a cgroup, and not put into the one
// for pods that are given none.
func (s *Server) ownParent(st *sandbox.Status) bool {
	return st.Params.CgroupParent != "" && s.sandboxView(st).Config.GetLinux().GetCgroupParent() != ""
}

// sharedParents finds the cgroups that hold several pods, whatever their clients
// meant by that: what such a cgroup uses is no pod's alone.
func (s *Server) sharedParents() map[string]bool {
	shared := map[string]bool{}
	pod := map[string]sandbox.Key{}
	for _, sb := range s.sandboxes().List() {
		st := sb.Status()
		key := st.Params.Key
		key.Attempt = 0 // one pod, made again
		parent := s.cgroupDir(st.Params.CgroupParent)
		if other, ok := pod[parent]; ok && other != key {
			shared[parent] = true
		}
		pod[parent] = key
	}
	for parent := range pod {
		for above := path.Dir(parent); above != "/" && above != "."; above = path.Dir(above) {
			shared[above] = true
		}
	}
	return shared
}

func (s *Server) podStats(r podReading) *runtimeapi.PodSandboxStats {
	st := &r.status
	total := r.total()
	at := total.Time.UnixNano()
	linuxStats := &runtimeapi.LinuxPodSandboxStats{
		Cpu:     cpuUsage(total),
		Memory:  memoryUsage(total.CgroupStats),
		Process: &runtimeapi.ProcessUsage{Timestamp: at, ProcessCount: &runtimeapi.UInt64Value{Value: r.processes}},
		Network: networkUsage(r.network),
	}
	if total.IOPressure != nil {
		linuxStats.Io = &runtimeapi.IoUsage{Timestamp: at, Psi: psi(total.IOPressure)}
	}
	for _, m := range r.members {
		if !m.status.Infra {
			linuxStats.Containers = append(linuxStats.Containers, s.containerStats(m.container, m.status, m.sample))
		}
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: st.ID, Metadata: sandboxMetadata(st), Labels: st.Params.Labels, Annotations: st.Params.Annotations,
		},
		Linux: linuxStats,
	}
}

// total is what the pod's own cgroup says, or else the sum of its containers.
// Pressures have no sum, and the sum has no limit.
func (r *podReading) total() stats.Sample {
	if r.own != nil {
		return *r.own
	}
	sum := stats.Sample{CgroupStats: linux.CgroupStats{Time: r.time}}
	for i, m := range r.members {
		for _, value := range []struct {
			to   **uint64
			from *uint64
		}{
			{&sum.CPUNanoseconds, m.sample.CPUNanoseconds},
			{&sum.NanoCores, m.sample.NanoCores},
			{&sum.MemoryUsage, m.sample.MemoryUsage},
			{&sum.WorkingSet, m.sample.WorkingSet},
			{&sum.RSS, m.sample.RSS},
			{&sum.PageFaults, m.sample.PageFaults},
			{&sum.MajorPageFaults, m.sample.MajorPageFaults},
		} {
			switch {
			case value.from == nil:
				*value.to = nil // what one does not know, the sum does not
			case i == 0:
				*value.to = new(*value.from)
			case *value.to != nil:
				**value.to += *value.from
			}
		}
		sum.Time = m.sample.Time
	}
	return sum
}

// networkUsage puts the interface that CNI calls the pod's first, or else the
// first one there is.
func networkUsage(u *stats.NetworkUsage) *runtimeapi.NetworkUsage {
	if u == nil {
		return nil
	}
	out := &runtimeapi.NetworkUsage{Timestamp: u.Time.UnixNano()}
	first := 0
	for i, nic := range u.Interfaces {
		if nic.Name == network.IfName {
			first = i
		}
	}
	for i, nic := range u.Interfaces {
		one := &runtimeapi.NetworkInterfaceUsage{
			Name:     nic.Name,
			RxBytes:  &runtimeapi.UInt64Value{Value: nic.RX.Bytes},
			RxErrors: &runtimeapi.UInt64Value{Value: nic.RX.Errors},
			TxBytes:  &runtimeapi.UInt64Value{Value: nic.TX.Bytes},
			TxErrors: &runtimeapi.UInt64Value{Value: nic.TX.Errors},
		}
		if i == first {
			out.DefaultInterface = one
		} else {
			out.Interfaces = append(out.Interfaces, one)
		}
	}
	return out
}
