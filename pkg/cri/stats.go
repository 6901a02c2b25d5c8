package cri

import (
	"context"
	"errors"
	"io/fs"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// ContainerStats reads what one container uses. Of one that does not run it says
// what its cgroup still knows, or nothing, and what its writable layer takes up.
func (s *Server) ContainerStats(_ context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	st := c.Status()
	sample, err := s.stats.Sample(statsTarget(st))
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.Status().State != runtime.Running:
		sample.Time = time.Now() // it has ended, and its cgroup with it
	case err != nil:
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: s.containerStats(c, st, sample)}, nil
}

// ListContainerStats reads what the running containers that match use.
func (s *Server) ListContainerStats(_ context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := r.GetFilter()
	var running []*runtime.Container
	var targets []stats.Target
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		if st.Infra || st.State != runtime.Running ||
			hidden(st.Owner, f.GetId()+f.GetPodSandboxId(), f.GetLabelSelector()) ||
			f.GetId() != "" && !isPrefix(f.GetId(), st.ID) ||
			f.GetPodSandboxId() != "" && !isPrefix(f.GetPodSandboxId(), st.Group) ||
			!selects(f.GetLabelSelector(), st.Labels) {
			continue
		}
		running, targets = append(running, c), append(targets, statsTarget(st))
	}
	response := &runtimeapi.ListContainerStatsResponse{Stats: make([]*runtimeapi.ContainerStats, 0, len(running))}
	for i, result := range s.stats.Samples(targets) {
		if result.Err != nil {
			continue // it has gone meanwhile
		}
		response.Stats = append(response.Stats, s.containerStats(running[i], running[i].Status(), result.Sample))
	}
	return response, nil
}

// statsTarget is the cgroup of a container.
func statsTarget(st *runtime.Status) stats.Target {
	return stats.Target{ID: st.ID, Cgroup: st.Cgroup, Since: st.StartedAt, Keep: st.State == runtime.Running}
}

// containerStats puts a reading into CRI's words, for sending only.
func (s *Server) containerStats(c *runtime.Container, st *runtime.Status, sample stats.Sample) *runtimeapi.ContainerStats {
	at := sample.Time.UnixNano()
	out := &runtimeapi.ContainerStats{
		Attributes: s.listedAttributes(st),
		Cpu:        cpuUsage(sample),
		Memory:     memoryUsage(sample.CgroupStats),
		Swap:       swapUsage(sample.CgroupStats),
	}
	if sample.IOPressure != nil {
		out.Io = &runtimeapi.IoUsage{Timestamp: at, Psi: psi(sample.IOPressure)}
	}
	if layer, asOf, err := s.config.Images.RootfsUsage(st.ID, c.RootfsPath()); err == nil {
		out.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp:  asOf.UnixNano(),
			FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.config.Root},
			UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(layer.Bytes)},
			InodesUsed: &runtimeapi.UInt64Value{Value: uint64(layer.Inodes)},
		}
	}
	return out
}

func cpuUsage(sample stats.Sample) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{
		Timestamp:            sample.Time.UnixNano(),
		UsageCoreNanoSeconds: number(sample.CPUNanoseconds),
		UsageNanoCores:       number(sample.NanoCores),
		Psi:                  psi(sample.CPUPressure),
	}
}

func memoryUsage(u linux.CgroupStats) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp:       u.Time.UnixNano(),
		WorkingSetBytes: number(u.WorkingSet),
		UsageBytes:      number(u.MemoryUsage),
		RssBytes:        number(u.RSS),
		PageFaults:      number(u.PageFaults),
		MajorPageFaults: number(u.MajorPageFaults),
		Psi:             psi(u.MemoryPressure),
	}
	m.AvailableBytes = rest(u.MemoryLimit, u.WorkingSet)
	return m
}

// swapUsage is nil without swap accounting.
func swapUsage(u linux.CgroupStats) *runtimeapi.SwapUsage {
	if u.Swap == nil {
		return nil
	}
	return &runtimeapi.SwapUsage{
		Timestamp:          u.Time.UnixNano(),
		SwapUsageBytes:     number(u.Swap),
		SwapAvailableBytes: rest(u.SwapLimit, u.Swap),
	}
}

// rest is what a limit leaves; nil where there is no limit.
func rest(limit, used *uint64) *runtimeapi.UInt64Value {
	if limit == nil || used == nil {
		return nil
	}
	return &runtimeapi.UInt64Value{Value: *limit - min(*used, *limit)}
}

func psi(p *linux.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l linux.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: uint64(l.Total), Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

// number is nil for what the kernel does not offer.
func number(v *uint64) *runtimeapi.UInt64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.UInt64Value{Value: *v}
}
