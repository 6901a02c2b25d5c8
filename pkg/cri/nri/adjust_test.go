package nri

import (
	"slices"
	"testing"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func testSpec() *specs.Spec {
	score := 100
	return &specs.Spec{
		Process: &specs.Process{
			Args: []string{"sh"}, Env: []string{"A=1", "B=2"}, OOMScoreAdj: &score,
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 10, Soft: 10}},
		},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/gone", Type: "bind"}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/n"}},
			Resources:  &specs.LinuxResources{},
		},
		Annotations: map[string]string{"old": "1"},
	}
}

// TestAdjust applies one of each kind of change.
func TestAdjust(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("new", "2")
	a.RemoveAnnotation("old")
	a.AddEnv("B", "3")
	a.AddEnv("C", "4")
	a.RemoveEnv("A")
	a.SetArgs([]string{"true"})
	a.AddMount(&api.Mount{Destination: "/m", Type: "bind", Source: "/tmp", Options: []string{"rbind", "ro"}})
	a.RemoveMount("/gone")
	a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/hook"}}})
	a.AddRlimit("RLIMIT_NOFILE", 20, 15)
	a.AddDevice(&api.LinuxDevice{Path: "/dev/x", Type: "c", Major: 1, Minor: 3})
	a.SetLinuxMemoryLimit(64 << 20)
	a.SetLinuxCPUShares(300)
	a.SetLinuxPidLimits(55)
	a.SetLinuxOomScoreAdj(new(int))
	a.SetLinuxCgroupsPath("/elsewhere/x")
	a.SetLinuxSysctl("net.ipv4.ip_forward", "1")
	a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/other"})
	a.RemoveNamespace(&api.LinuxNamespace{Type: "pid"})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrno: api.UInt32(uint32(9))})
	a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_IDLE})
	a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH})

	spec := testSpec()
	out, err := (&Manager{}).adjust(spec, a, Host{OOMScoreFloor: 50})
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Process.Env; !slices.Equal(got, []string{"B=3", "C=4"}) {
		t.Errorf("env %q", got)
	}
	if *out.OOMScoreAdj != 50 || *spec.Process.OOMScoreAdj != 50 {
		t.Error("oom score is below the floor")
	}
	if r := ToCRI(out.Resources); r.GetMemoryLimitInBytes() != 64<<20 || r.GetMemorySwapLimitInBytes() != 0 || r.GetCpuShares() != 300 {
		t.Errorf("limits %v", r)
	}
	if spec.Linux.Resources.Memory.Swap != nil || *spec.Linux.Resources.Pids.Limit != 55 {
		t.Errorf("resources %v", spec.Linux.Resources)
	}
	if out.CgroupsPath != "/elsewhere/x" || spec.Linux.CgroupsPath != "/elsewhere/x" {
		t.Error("cgroups path")
	}
	if len(spec.Process.Rlimits) != 1 || spec.Process.Rlimits[0].Hard != 20 {
		t.Errorf("rlimits %v", spec.Process.Rlimits)
	}
	if n := spec.Linux.Namespaces; len(n) != 1 || n[0].Path != "/other" {
		t.Errorf("namespaces %v", n)
	}
	if len(spec.Mounts) != 2 || spec.Mounts[0].Destination != "/m" && spec.Mounts[1].Destination != "/m" {
		t.Errorf("mounts %v", spec.Mounts)
	}
	if spec.Annotations["new"] != "2" || spec.Annotations["old"] != "" || spec.Process.Args[0] != "true" ||
		len(spec.Hooks.CreateRuntime) != 1 || len(spec.Linux.Devices) != 1 || spec.Linux.Sysctl["net.ipv4.ip_forward"] != "1" ||
		*spec.Linux.Seccomp.DefaultErrnoRet != 9 || spec.Process.IOPriority == nil || spec.Process.Scheduler == nil {
		t.Errorf("spec %+v", spec)
	}
}

// TestAdjustNothing leaves a spec as it is.
func TestAdjustNothing(t *testing.T) {
	spec := testSpec()
	out, err := (&Manager{}).adjust(spec, &api.ContainerAdjustment{}, Host{})
	if err != nil || out.Resources != nil || out.OOMScoreAdj != nil || spec.Hooks != nil || spec.Linux.Seccomp != nil {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestAdjustRefused(t *testing.T) {
	for name, a := range map[string]*api.ContainerAdjustment{
		"CDI without an injector": {CDIDevices: []*api.CDIDevice{{Name: "v/c=d"}}},
		"unknown namespace":       {Linux: &api.LinuxContainerAdjustment{Namespaces: []*api.LinuxNamespace{{Type: "odd"}}}},
		"block I/O class":         {Linux: &api.LinuxContainerAdjustment{Resources: &api.LinuxResources{BlockioClass: api.String("x")}}},
	} {
		if _, err := (&Manager{}).adjust(testSpec(), a, Host{}); err == nil {
			t.Errorf("%s was not refused", name)
		}
	}
}
