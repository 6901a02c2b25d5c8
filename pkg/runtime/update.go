package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Limits is one update of a container's resource limits.
type Limits struct {
	// New is to be put in force, and Old restores what was before it.
	New, Old *specs.LinuxResources
	// Request replaces what the caller keeps with the container.
	Request []byte
}

// Update changes the container's resource limits and, only if that succeeded,
// what the caller keeps with it. It gets both from change, which is given what
// the update before it has left. After an error the old limits are in force:
// an OCI runtime that fails may have set some of the new ones.
func (c *Container) Update(ctx context.Context, change func(*Status) (Limits, error)) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if s := c.Status().State; s != Created && s != Running {
		return fmt.Errorf("container %s is %s: %w", c.id, s, errdefs.ErrFailedPrecondition)
	}
	limits, err := change(c.Status())
	if err != nil {
		return err
	}
	// Of some limits an OCI runtime has no word for "none", which what was before
	// may have had.
	kept, err := c.m.config.Cgroups.KeepControls(c.Status().Cgroup, unnamable(limits.New))
	if err != nil {
		return err
	}
	old, err := c.cpusetNamed(limits)
	if err != nil {
		return err
	}
	err = c.setLimits(ctx, limits.New)
	if err == nil {
		err = c.SetRequest(limits.Request)
	}
	if err == nil || old == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	if back := errors.Join(c.setLimits(ctx, old), kept.Restore()); back != nil {
		return fmt.Errorf("%w; restore the limits before: %w", err, back)
	}
	return err
}

// cpusetNamed is Old with the processors and memory nodes that the container has
// from a cgroup above it now, where New sets them and Old says nothing. Systemd
// writes a cpuset that it has been told of anew with every later update, and soon
// after this one: it has to be told another, and an OCI runtime can tell it one
// that has a name only.
func (c *Container) cpusetNamed(limits Limits) (*specs.LinuxResources, error) {
	next := limits.New.CPU
	if limits.Old == nil || next == nil || next.Cpus == "" && next.Mems == "" {
		return limits.Old, nil
	}
	cpus, mems, err := c.m.config.Cgroups.EffectiveCpuset(c.Status().Cgroup)
	if err != nil {
		return nil, err
	}
	old, cpu := *limits.Old, specs.LinuxCPU{}
	if old.CPU != nil {
		cpu = *old.CPU
	}
	old.CPU = &cpu
	if next.Cpus != "" && cpu.Cpus == "" {
		cpu.Cpus = cpus
	}
	if next.Mems != "" && cpu.Mems == "" {
		cpu.Mems = mems
	}
	return &old, nil
}

// unnamable lists the control files of the limits that can be set, but not taken
// away, through an OCI runtime.
func unnamable(limits *specs.LinuxResources) []string {
	var files []string
	if cpu := limits.CPU; cpu != nil {
		if cpu.Cpus != "" {
			files = append(files, "cpuset.cpus")
		}
		if cpu.Mems != "" {
			files = append(files, "cpuset.mems")
		}
	}
	for _, h := range limits.HugepageLimits {
		for _, suffix := range []string{"max", "rsvd.max", "limit_in_bytes", "rsvd.limit_in_bytes"} {
			files = append(files, "hugetlb."+h.Pagesize+"."+suffix)
		}
	}
	return slices.AppendSeq(files, maps.Keys(limits.Unified))
}

func (c *Container) setLimits(ctx context.Context, limits *specs.LinuxResources) error {
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	if limits.CPU != nil && limits.CPU.Quota != nil && *limits.CPU.Quota < 0 {
		lifted, err := c.m.config.Cgroups.LiftCPUQuota(c.Status().Cgroup)
		if err != nil {
			return fmt.Errorf("lift the CPU quota of container %s: %w", c.id, err)
		}
		if lifted {
			rest, cpu := *limits, *limits.CPU
			cpu.Quota, rest.CPU = nil, &cpu
			limits = &rest
		}
	}
	document, err := json.Marshal(limits)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	return runtime.Update(ctx, c.id, c.logFile(), document)
}

// ReopenLog makes the monitor open the log file anew, after somebody renamed
// it. The new file exists when it returns.
func (c *Container) ReopenLog(ctx context.Context) error {
	if err := c.expect(Running); err != nil {
		return err
	}
	return c.m.monitor.ReopenLog(ctx, c.id)
}
