package nri

import (
	"maps"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fromCRI translates limits. Zero is an unset limit in CRI and nil in NRI.
func fromCRI(r *runtimeapi.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	t := &api.LinuxResources{
		Memory: &api.LinuxMemory{Limit: set64(r.GetMemoryLimitInBytes()), Swap: set64(r.GetMemorySwapLimitInBytes())},
		Cpu: &api.LinuxCPU{
			Shares: setU64(r.GetCpuShares()), Quota: set64(r.GetCpuQuota()), Period: setU64(r.GetCpuPeriod()),
			Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems(),
		},
		Unified: maps.Clone(r.GetUnified()),
	}
	for _, h := range r.GetHugepageLimits() {
		t.HugepageLimits = append(t.HugepageLimits, &api.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return t
}

func set64(v int64) *api.OptionalInt64 {
	if v == 0 {
		return nil
	}
	return api.Int64(v)
}

func setU64(v int64) *api.OptionalUInt64 {
	if v <= 0 {
		return nil
	}
	return api.UInt64(uint64(v))
}

// ToCRI translates the limits that CRI knows, too.
func ToCRI(r *api.LinuxResources) *runtimeapi.LinuxContainerResources {
	if r == nil {
		return nil
	}
	t := &runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes:     r.GetMemory().GetLimit().GetValue(),
		MemorySwapLimitInBytes: r.GetMemory().GetSwap().GetValue(),
		CpuShares:              int64(r.GetCpu().GetShares().GetValue()),
		CpuQuota:               r.GetCpu().GetQuota().GetValue(),
		CpuPeriod:              int64(r.GetCpu().GetPeriod().GetValue()),
		CpusetCpus:             r.GetCpu().GetCpus(),
		CpusetMems:             r.GetCpu().GetMems(),
		Unified:                maps.Clone(r.GetUnified()),
	}
	for _, h := range r.GetHugepageLimits() {
		t.HugepageLimits = append(t.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return t
}

// ApplyOthers writes over o the limits that CRI does not know, and reports
// whether there are any.
func ApplyOthers(o *specs.LinuxResources, r *api.LinuxResources) (any bool) {
	if mem := r.GetMemory(); mem != nil {
		into := o.Memory
		if into == nil {
			into = &specs.LinuxMemory{}
		}
		changed := replace(&into.Reservation, mem.GetReservation().Get())
		changed = replace(&into.KernelTCP, mem.GetKernelTcp().Get()) || changed
		changed = replace(&into.Swappiness, mem.GetSwappiness().Get()) || changed
		changed = replace(&into.DisableOOMKiller, mem.GetDisableOomKiller().Get()) || changed
		if changed {
			o.Memory, any = into, true
		}
	}
	if cpu := r.GetCpu(); cpu != nil {
		into := o.CPU
		if into == nil {
			into = &specs.LinuxCPU{}
		}
		changed := replace(&into.RealtimeRuntime, cpu.GetRealtimeRuntime().Get())
		changed = replace(&into.RealtimePeriod, cpu.GetRealtimePeriod().Get()) || changed
		if changed {
			o.CPU, any = into, true
		}
	}
	if p := r.GetPids(); p != nil {
		limit := p.GetLimit()
		o.Pids, any = &specs.LinuxPids{Limit: &limit}, true
	}
	return any
}

func replace[V any](to **V, from *V) bool {
	if from != nil {
		*to = from
	}
	return from != nil
}

// overlay returns base with what is set in over.
func overlay(base, over *api.LinuxResources) *api.LinuxResources {
	if base == nil {
		return over
	}
	if base.Memory == nil {
		base.Memory = &api.LinuxMemory{}
	}
	if base.Cpu == nil {
		base.Cpu = &api.LinuxCPU{}
	}
	mem, cpu := over.GetMemory(), over.GetCpu()
	replace(&base.Memory.Limit, mem.GetLimit())
	replace(&base.Memory.Swap, mem.GetSwap())
	replace(&base.Cpu.Shares, cpu.GetShares())
	replace(&base.Cpu.Quota, cpu.GetQuota())
	replace(&base.Cpu.Period, cpu.GetPeriod())
	if cpu.GetCpus() != "" {
		base.Cpu.Cpus = cpu.GetCpus()
	}
	if cpu.GetMems() != "" {
		base.Cpu.Mems = cpu.GetMems()
	}
	if len(over.GetHugepageLimits()) > 0 {
		base.HugepageLimits = over.GetHugepageLimits()
	}
	if len(over.GetUnified()) > 0 {
		if base.Unified == nil {
			base.Unified = map[string]string{}
		}
		maps.Copy(base.Unified, over.GetUnified())
	}
	return base
}
