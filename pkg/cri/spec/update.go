package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits are a container's limits in both languages.
type Limits struct {
	// OCI is Linux.Resources of the container's spec.
	OCI *specs.LinuxResources
	// CRI is Output.Resources, as the status shows it.
	CRI *runtimeapi.LinuxContainerResources
}

// UpdateLimits applies UpdateContainerResources to the limits of a container.
// It changes neither argument: the caller stores the result once the runtime
// has taken it, and has the old limits still if it did not. The result is
// complete, so that a runtime can order memory and swap as lowering them needs.
func UpdateLimits(current Limits, update *runtimeapi.LinuxContainerResources, host Host) (Limits, error) {
	const field = "linux"
	if err := validateResources(field, update, host.CgroupV2); err != nil {
		return Limits{}, err
	}
	actual, err := actualResources(field, update, host)
	if err != nil {
		return Limits{}, err
	}
	merged := MergeResources(current.CRI, actual)
	if err := validateResources(field, merged, host.CgroupV2); err != nil {
		return Limits{}, err
	}
	oci, err := applied(current.OCI, merged)
	if err != nil {
		return Limits{}, err
	}
	return Limits{OCI: oci, CRI: merged}, nil
}

// applied returns a copy of OCI limits with those of CRI laid over it.
func applied(base *specs.LinuxResources, limits *runtimeapi.LinuxContainerResources) (*specs.LinuxResources, error) {
	oci := &specs.LinuxResources{}
	if base != nil {
		doc, err := json.Marshal(base)
		if err != nil {
			return nil, fmt.Errorf("encode resources: %w", err)
		}
		if err := json.Unmarshal(doc, oci); err != nil {
			return nil, fmt.Errorf("decode resources: %w", err)
		}
	}
	ApplyResources(oci, limits)
	return oci, nil
}

// RestoreLimits returns what brings a container whose update to next has failed
// on the way back to current: what next sets and current does not is given the
// kernel's own default.
func RestoreLimits(current, next Limits) (*specs.LinuxResources, error) {
	base := current.CRI
	if base == nil {
		base = &runtimeapi.LinuxContainerResources{}
	}
	old, err := applied(current.OCI, base)
	if err != nil {
		return nil, err
	}
	old.Devices = nil
	const unlimited, defaultShares, defaultPeriod = int64(-1), uint64(1024), uint64(100000)
	if m := next.OCI.Memory; m != nil {
		if old.Memory == nil {
			old.Memory = &specs.LinuxMemory{}
		}
		if m.Limit != nil && old.Memory.Limit == nil {
			old.Memory.Limit = new(unlimited)
		}
		if m.Swap != nil && old.Memory.Swap == nil {
			old.Memory.Swap = new(unlimited)
		}
	}
	if c := next.OCI.CPU; c != nil {
		if old.CPU == nil {
			old.CPU = &specs.LinuxCPU{}
		}
		if c.Quota != nil && old.CPU.Quota == nil {
			old.CPU.Quota = new(unlimited)
		}
		if c.Period != nil && old.CPU.Period == nil {
			old.CPU.Period = new(defaultPeriod)
		}
		if c.Shares != nil && old.CPU.Shares == nil {
			old.CPU.Shares = new(defaultShares)
		}
	}
	return old, nil
}

// MergeResources returns current with the fields that update sets. The oom
// score stays: a running container's is not changed. A limit of memory that
// comes without one of memory+swap moves that along and keeps the swap.
func MergeResources(current, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	m := &runtimeapi.LinuxContainerResources{}
	if current != nil {
		m = proto.CloneOf(current)
	}
	oldLimit, oldSwap := m.MemoryLimitInBytes, m.MemorySwapLimitInBytes
	for _, f := range []struct {
		to   *int64
		from int64
	}{
		{&m.CpuPeriod, update.GetCpuPeriod()},
		{&m.CpuQuota, update.GetCpuQuota()},
		{&m.CpuShares, update.GetCpuShares()},
		{&m.MemoryLimitInBytes, update.GetMemoryLimitInBytes()},
		{&m.MemorySwapLimitInBytes, update.GetMemorySwapLimitInBytes()},
	} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	if update.GetMemorySwapLimitInBytes() == 0 && oldSwap > 0 && oldLimit > 0 && m.MemoryLimitInBytes > 0 {
		m.MemorySwapLimitInBytes = m.MemoryLimitInBytes + oldSwap - oldLimit
	}
	if update.GetCpusetCpus() != "" {
		m.CpusetCpus = update.GetCpusetCpus()
	}
	if update.GetCpusetMems() != "" {
		m.CpusetMems = update.GetCpusetMems()
	}
	for _, h := range update.GetHugepageLimits() {
		same := func(l *runtimeapi.HugepageLimit) bool { return l.GetPageSize() == h.GetPageSize() }
		m.HugepageLimits = append(slices.DeleteFunc(m.HugepageLimits, same), proto.CloneOf(h))
	}
	if len(update.GetUnified()) > 0 {
		if m.Unified == nil {
			m.Unified = make(map[string]string)
		}
		maps.Copy(m.Unified, update.GetUnified())
	}
	return m
}
