package cri

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// Usage is what a container uses, for people; nothing where it does not run. The
// network is that of its pod.
type Usage struct {
	Time           time.Time
	CPUNanoseconds uint64
	WorkingSet     uint64
	MemoryLimit    uint64 // 0 is none
	Tasks          uint64
	Received, Sent uint64
	Read, Written  uint64
}

// Usages measures containers; the results are in their order.
func (s *Server) Usages(ctx context.Context, containers []*runtime.Container) []Usage {
	now := time.Now()
	usages := make([]Usage, len(containers))
	targets := make([]stats.Target, len(containers))
	var networks []stats.NetworkTarget
	var owner []int
	for i, c := range containers {
		st := c.Status()
		usages[i].Time = now
		targets[i] = statsTarget(st)
		if sb, err := s.sandboxes().Get(st.Group); err == nil {
			pod := sb.Status()
			if pod.State == sandbox.Ready && pod.Namespaces.Net != "" {
				networks, owner = append(networks, stats.NetworkTarget{ID: pod.ID, Path: pod.Namespaces.Net}), append(owner, i)
			}
		}
	}
	for i, result := range s.stats.Samples(targets) {
		if result.Err != nil || containers[i].Status().State != runtime.Running {
			continue
		}
		u := &usages[i]
		u.Time = result.Sample.Time
		u.CPUNanoseconds, u.WorkingSet = orZero(result.Sample.CPUNanoseconds), orZero(result.Sample.WorkingSet)
		u.MemoryLimit = orZero(result.Sample.MemoryLimit)
		metrics, err := s.config.Cgroups.Metrics(targets[i].Cgroup)
		if err != nil {
			continue // it has gone meanwhile
		}
		u.Tasks = orZero(metrics.Tasks)
		for _, d := range metrics.Devices {
			u.Read, u.Written = u.Read+d.ReadBytes, u.Written+d.WriteBytes
		}
	}
	traffic, err := s.stats.Networks(networks)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read the network of some pods")
	}
	for n, t := range traffic {
		for _, i := range t.Interfaces {
			usages[owner[n]].Received += i.RX.Bytes
			usages[owner[n]].Sent += i.TX.Bytes
		}
	}
	return usages
}
