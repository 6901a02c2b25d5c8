package nri

import (
	"testing"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
)

// TestTranslateNothing: what a spec and a config lack is left out, not a crash.
func TestTranslateNothing(t *testing.T) {
	for _, c := range []Container{
		{Status: &runtime.Status{}},
		{Status: &runtime.Status{}, Config: &runtimeapi.ContainerConfig{}, Spec: &specs.Spec{}},
		{Status: &runtime.Status{}, Spec: &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}, Hooks: &specs.Hooks{}}},
		{Status: &runtime.Status{}, Spec: &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}, Seccomp: &specs.LinuxSeccomp{}, IntelRdt: &specs.LinuxIntelRdt{}}}},
	} {
		if c.translate() == nil {
			t.Error("no container")
		}
	}
	if p := (&Pod{}).translate(); p.GetLinux() == nil {
		t.Error("no pod")
	}
}

// TestResourcesRoundTrip: limits come back from NRI's form as they went.
func TestResourcesRoundTrip(t *testing.T) {
	r := &runtimeapi.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: -1, CpuShares: 512, MemoryLimitInBytes: 1 << 30, MemorySwapLimitInBytes: 2 << 30,
		CpusetCpus: "0-1", CpusetMems: "0", Unified: map[string]string{"memory.low": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}},
	}
	if got := ToCRI(fromCRI(r)); got.String() != r.String() {
		t.Errorf("got %v, want %v", got, r)
	}
	if fromCRI(nil) != nil || ToCRI(nil) != nil {
		t.Error("nil became something")
	}
}

func TestApplyOthers(t *testing.T) {
	o := &specs.LinuxResources{}
	if ApplyOthers(o, nil) || ApplyOthers(o, fromCRI(&runtimeapi.LinuxContainerResources{CpuShares: 3})) || o.CPU != nil || o.Memory != nil {
		t.Errorf("nothing to apply gave %v", o)
	}
	r := &api.LinuxResources{Pids: &api.LinuxPids{Limit: 7}, Memory: &api.LinuxMemory{Reservation: api.Int64(int64(9))}}
	if !ApplyOthers(o, r) || *o.Pids.Limit != 7 || *o.Memory.Reservation != 9 {
		t.Errorf("applied: %v", o)
	}
}
