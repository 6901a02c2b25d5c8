package cri

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// cpuSamples remembers each container's last reading, so that the next one
// tells how much CPU it uses now.
type cpuSamples struct {
	mu   sync.Mutex
	last map[string]cpuSample
}

type cpuSample struct {
	at    time.Time
	usage uint64 // nanoseconds since the container's cgroup was made
	rate  uint64 // nanocores, as of at
}

// minSample is how far apart two readings must be for a rate to mean anything.
const minSample = 100 * time.Millisecond

// rate notes a reading and returns the usage in nanocores since the one before;
// ok is false for the first.
func (c *cpuSamples) rate(id string, at time.Time, usage uint64) (rate uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.last[id]
	if ok && at.Sub(last.at) < minSample {
		return last.rate, last.rate > 0
	}
	if ok && usage >= last.usage {
		rate = uint64(float64(usage-last.usage) / at.Sub(last.at).Seconds())
	}
	if c.last == nil {
		c.last = map[string]cpuSample{}
	}
	c.last[id] = cpuSample{at: at, usage: usage, rate: rate}
	return rate, ok
}

// ContainerStats reads what one container uses.
func (s *Server) ContainerStats(_ context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := s.containerStats(c)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, nil
}

// ListContainerStats reads what the running containers that match use.
func (s *Server) ListContainerStats(_ context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := r.GetFilter()
	response := &runtimeapi.ListContainerStatsResponse{}
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		if st.Infra || st.State != runtime.Running ||
			f.GetId() != "" && !isPrefix(f.GetId(), st.ID) ||
			f.GetPodSandboxId() != "" && !isPrefix(f.GetPodSandboxId(), st.Group) ||
			!selects(f.GetLabelSelector(), st.Labels) {
			continue
		}
		stats, err := s.containerStats(c)
		if err != nil {
			continue // it has gone meanwhile
		}
		response.Stats = append(response.Stats, stats)
	}
	return response, nil
}

func (s *Server) containerStats(c *runtime.Container) (*runtimeapi.ContainerStats, error) {
	st := c.Status()
	stats := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
		Id:          st.ID,
		Metadata:    containerMetadata(st),
		Labels:      st.Labels,
		Annotations: st.Annotations,
	}}
	usage, err := c.Stats()
	switch {
	case errors.Is(err, fs.ErrNotExist) && st.State != runtime.Running:
		usage.Time = time.Now() // it has ended, and its cgroup with it
	case err != nil:
		return nil, err
	}
	stats.Cpu = s.cpuUsage(st.ID, usage)
	stats.Memory = memoryUsage(usage)
	if usage.Swap != nil {
		stats.Swap = &runtimeapi.SwapUsage{Timestamp: usage.Time.UnixNano(), SwapUsageBytes: number(usage.Swap)}
	}
	if layer, err := s.config.Images.RootfsUsage(st.ID); err == nil {
		stats.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp:  usage.Time.UnixNano(),
			FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.config.Root},
			UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(layer.Bytes)},
			InodesUsed: &runtimeapi.UInt64Value{Value: uint64(layer.Inodes)},
		}
	}
	return stats, nil
}

func (s *Server) cpuUsage(id string, u linux.CgroupStats) *runtimeapi.CpuUsage {
	cpu := &runtimeapi.CpuUsage{Timestamp: u.Time.UnixNano(), UsageCoreNanoSeconds: number(u.CPUNanoseconds)}
	if u.CPUNanoseconds == nil {
		return cpu
	}
	if rate, ok := s.samples.rate(id, u.Time, *u.CPUNanoseconds); ok {
		cpu.UsageNanoCores = &runtimeapi.UInt64Value{Value: rate}
	}
	return cpu
}

func memoryUsage(u linux.CgroupStats) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp:       u.Time.UnixNano(),
		WorkingSetBytes: number(u.WorkingSet),
		UsageBytes:      number(u.MemoryUsage),
		RssBytes:        number(u.RSS),
		PageFaults:      number(u.PageFaults),
		MajorPageFaults: number(u.MajorPageFaults),
	}
	if u.MemoryLimit != nil && u.WorkingSet != nil {
		available := *u.MemoryLimit - min(*u.WorkingSet, *u.MemoryLimit)
		m.AvailableBytes = &runtimeapi.UInt64Value{Value: available}
	}
	return m
}

// number is nil for what the kernel does not offer.
func number(v *uint64) *runtimeapi.UInt64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.UInt64Value{Value: *v}
}

func (c *cpuSamples) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.last, id)
}
