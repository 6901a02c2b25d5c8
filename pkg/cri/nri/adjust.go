package nri

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Host is what of the machine limits an adjustment.
type Host struct {
	// OOMScoreFloor is the lowest oom_score_adj that can be set.
	OOMScoreFloor int
	// SwapAccounting is whether memory+swap can be limited.
	SwapAccounting bool
}

// Adjusted is what plugins changed of a container that its spec does not tell
// by itself.
type Adjusted struct {
	// Resources are the limits that plugins set; nil for none.
	Resources *api.LinuxResources
	// OOMScoreAdj is nil where no plugin set it.
	OOMScoreAdj *int
	// CgroupsPath is empty where no plugin set it.
	CgroupsPath string
}

// adjust applies to a spec what plugins ask for.
func (m *Manager) adjust(spec *specs.Spec, a *api.ContainerAdjustment, host Host) (*Adjusted, error) {
	if a == nil {
		return nil, nil
	}
	noSwap := func(r *specs.LinuxResources) error {
		// The generator limits memory+swap along with memory.
		if !host.SwapAccounting && r != nil && r.Memory != nil {
			r.Memory.Swap = nil
		}
		return nil
	}
	g := generate.SpecGenerator(&generator{spec},
		generate.WithCDIDeviceInjector(m.injectCDI),
		generate.WithResourceChecker(noSwap),
		generate.WithBlockIOResolver(func(class string) (*specs.LinuxBlockIO, error) {
			return nil, fmt.Errorf("no block I/O classes are configured, and so no %q: %w", class, errdefs.ErrNotImplemented)
		}),
		generate.WithRdtResolver(func(class string) (*specs.LinuxIntelRdt, error) {
			return &specs.LinuxIntelRdt{ClosID: class}, nil
		}),
	)
	if err := g.Adjust(a); err != nil {
		return nil, fmt.Errorf("adjust container: %w", err)
	}
	if spec.Process == nil || len(spec.Process.Args) == 0 {
		return nil, fmt.Errorf("adjust container: nothing is left to execute: %w", errdefs.ErrInvalidArgument)
	}
	if errno := a.GetLinux().GetSeccompPolicy().GetDefaultErrno(); errno != nil {
		n := uint(errno.GetValue())
		spec.Linux.Seccomp.DefaultErrnoRet = &n // which the generator forgets
	}
	spec.Process.Rlimits = lastOfEach(spec.Process.Rlimits)
	out := &Adjusted{CgroupsPath: a.GetLinux().GetCgroupsPath()}
	if a.GetLinux().GetOomScoreAdj() != nil {
		score := max(*spec.Process.OOMScoreAdj, host.OOMScoreFloor)
		spec.Process.OOMScoreAdj, out.OOMScoreAdj = &score, &score
	}
	if r := a.GetLinux().GetResources(); limits(r) {
		if r.GetMemory().GetLimit() != nil && r.GetMemory().GetSwap() == nil && spec.Linux.Resources.Memory.Swap != nil {
			r.Memory.Swap = api.Int64(*spec.Linux.Resources.Memory.Swap)
		}
		out.Resources = r
	}
	if r := a.GetLinux().GetResources(); r != nil {
		ApplyOthers(made(&made(&spec.Linux).Resources), r)
	}
	return out, nil
}

func (m *Manager) injectCDI(spec *specs.Spec, devices []string) error {
	if m.config.InjectCDI == nil {
		return fmt.Errorf("CDI devices %q: %w", devices, errors.Join(errors.ErrUnsupported, errdefs.ErrNotImplemented))
	}
	return m.config.InjectCDI(spec, devices)
}

// limits reports whether anything is set that CRI knows, too.
func limits(r *api.LinuxResources) bool {
	mem, cpu := r.GetMemory(), r.GetCpu()
	return mem.GetLimit() != nil || mem.GetSwap() != nil ||
		cpu.GetShares() != nil || cpu.GetQuota() != nil || cpu.GetPeriod() != nil || cpu.GetCpus() != "" || cpu.GetMems() != "" ||
		len(r.GetHugepageLimits()) > 0 || len(r.GetUnified()) > 0
}

// lastOfEach keeps one limit of a type: plugins' come after the spec's own.
func lastOfEach(all []specs.POSIXRlimit) []specs.POSIXRlimit {
	at := map[string]int{}
	var kept []specs.POSIXRlimit
	for _, l := range all {
		if i, ok := at[l.Type]; ok {
			kept[i] = l
			continue
		}
		at[l.Type] = len(kept)
		kept = append(kept, l)
	}
	return kept
}
