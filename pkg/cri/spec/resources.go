package spec

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// MinMemory is the least memory limit that is accepted: below it no OCI
	// runtime's init lives long enough to start anything.
	MinMemory = 4 << 20
	// The kernel clamps cpu.shares to this range, and some runtimes'
	// conversion to cpu.weight wraps around outside of it.
	minShares, maxShares = 2, 262144
)

// setResources writes limits and the oom score. The score is always written,
// or the container would inherit the monitor's, which is the last to be killed.
func (b *builder) setResources(context.Context) error {
	field := "config.linux.resources"
	requested := b.cfg.GetLinux().GetResources()
	if err := validateResources(field, requested, b.in.Host.CgroupV2); err != nil {
		return err
	}
	least := max(b.in.Runtime.MinMemory, MinMemory)
	if m := requested.GetMemoryLimitInBytes(); m > 0 && m < least {
		return invalid(field+".memory_limit_in_bytes", "%d is less than %d, which this runtime needs to start", m, least)
	}
	if requested.GetMemorySwapLimitInBytes() > 0 && requested.GetMemoryLimitInBytes() == 0 {
		return invalid(field+".memory_swap_limit_in_bytes", "needs memory_limit_in_bytes, which it includes")
	}
	actual, err := actualResources(field, requested, b.in.Host)
	if err != nil {
		return err
	}
	score := int(actual.GetOomScoreAdj())
	b.spec.Process.OOMScoreAdj = &score
	b.out.Resources = actual

	r := &specs.LinuxResources{}
	ApplyResources(r, actual)
	if limit := b.in.Defaults.PidsLimit; limit > 0 {
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	b.spec.Linux.Resources = r
	return nil
}

// actualResources is what of a request this machine applies, and so what the
// status must say: kubelet compares it with what it asked for.
func actualResources(field string, requested *runtimeapi.LinuxContainerResources, host Host) (*runtimeapi.LinuxContainerResources, error) {
	a := &runtimeapi.LinuxContainerResources{}
	if requested != nil {
		a = proto.CloneOf(requested)
	}
	if a.CpuShares > 0 {
		a.CpuShares = min(max(a.CpuShares, minShares), maxShares)
	}
	if !host.SwapAccounting {
		a.MemorySwapLimitInBytes = 0
	}
	a.OomScoreAdj = max(a.OomScoreAdj, int64(host.OOMScoreFloor))
	a.HugepageLimits = nil
	for i, h := range requested.GetHugepageLimits() {
		if slices.Contains(host.HugepageSizes, h.GetPageSize()) {
			a.HugepageLimits = append(a.HugepageLimits, proto.CloneOf(h))
			continue
		}
		// Kubelet sends a limit of 0 for every size that the machine has, also
		// where nothing can enforce it.
		if h.GetLimit() > 0 {
			return nil, invalid(fmt.Sprintf("%s.hugepage_limits[%d].page_size", field, i),
				"the machine cannot limit pages of %s", quote(h.GetPageSize()))
		}
	}
	return a, nil
}

// ApplyResources writes what is set in res over r; zero and empty fields are
// unset ones and leave r as it is.
func ApplyResources(r *specs.LinuxResources, res *runtimeapi.LinuxContainerResources) {
	applyCPU(r, res)
	if limit := res.GetMemoryLimitInBytes(); limit != 0 {
		memory(r).Limit = &limit
	}
	if swap := res.GetMemorySwapLimitInBytes(); swap != 0 {
		memory(r).Swap = &swap
	}
	for _, h := range res.GetHugepageLimits() {
		limit := specs.LinuxHugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()}
		same := func(l specs.LinuxHugepageLimit) bool { return l.Pagesize == limit.Pagesize }
		if i := slices.IndexFunc(r.HugepageLimits, same); i >= 0 {
			r.HugepageLimits[i] = limit
		} else {
			r.HugepageLimits = append(r.HugepageLimits, limit)
		}
	}
	for k, v := range res.GetUnified() {
		if r.Unified == nil {
			r.Unified = make(map[string]string)
		}
		r.Unified[k] = v
	}
}

func memory(r *specs.LinuxResources) *specs.LinuxMemory {
	if r.Memory == nil {
		r.Memory = &specs.LinuxMemory{}
	}
	return r.Memory
}

// cpu makes r.CPU when there is something to put into it.
func cpu(r *specs.LinuxResources) *specs.LinuxCPU {
	if r.CPU == nil {
		r.CPU = &specs.LinuxCPU{}
	}
	return r.CPU
}

func applyCPU(r *specs.LinuxResources, res *runtimeapi.LinuxContainerResources) {
	if res.GetCpuShares() > 0 {
		shares := uint64(res.GetCpuShares())
		cpu(r).Shares = &shares
	}
	if quota := res.GetCpuQuota(); quota != 0 {
		cpu(r).Quota = &quota
	}
	if res.GetCpuPeriod() > 0 {
		period := uint64(res.GetCpuPeriod())
		cpu(r).Period = &period
	}
	if res.GetCpusetCpus() != "" {
		cpu(r).Cpus = res.GetCpusetCpus()
	}
	if res.GetCpusetMems() != "" {
		cpu(r).Mems = res.GetCpusetMems()
	}
}
