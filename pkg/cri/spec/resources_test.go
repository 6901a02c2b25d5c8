package spec

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResources(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	full := Host{CgroupV2: true, SwapAccounting: true, HugepageSizes: []string{"2MB"}, OOMScoreFloor: -1000, Capabilities: allCaps()}
	poor := Host{OOMScoreFloor: 100, Capabilities: allCaps()}
	tests := []struct {
		name   string
		host   Host
		in     *res
		want   specs.LinuxResources
		actual *res
		score  int
	}{
		{"unset", full, nil, specs.LinuxResources{}, &res{}, 0},
		{"zero", full, &res{}, specs.LinuxResources{}, &res{}, 0},
		{"cpu", full, &res{CpuShares: 1, CpuQuota: -1, CpuPeriod: 100000}, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2)), Quota: ptr(int64(-1)), Period: ptr(uint64(100000))}}, &res{CpuShares: 2, CpuQuota: -1, CpuPeriod: 100000}, 0},
		{"shares high", full, &res{CpuShares: 1 << 40}, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(262144))}}, &res{CpuShares: 262144}, 0},
		{"memory", full, &res{MemoryLimitInBytes: 1 << 24, MemorySwapLimitInBytes: 1 << 24, OomScoreAdj: -998}, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 24)), Swap: ptr(int64(1 << 24))}}, &res{MemoryLimitInBytes: 1 << 24, MemorySwapLimitInBytes: 1 << 24, OomScoreAdj: -998}, -998},
		{"memory without swap accounting", poor, &res{MemoryLimitInBytes: 1 << 24, MemorySwapLimitInBytes: 1 << 24, OomScoreAdj: -998}, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 24))}}, &res{MemoryLimitInBytes: 1 << 24, OomScoreAdj: 100}, 100},
		{"hugepages", full, &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}, {PageSize: "1GB"}}}, specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}}}, &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}}, 0},
		{"hugepages without controller", poor, &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}}, specs.LinuxResources{}, &res{OomScoreAdj: 100}, 100},
		{"unified", full, &res{Unified: map[string]string{"memory.min": "1"}}, specs.LinuxResources{Unified: map[string]string{"memory.min": "1"}}, &res{Unified: map[string]string{"memory.min": "1"}}, 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Host = tc.host
			in.Config.Linux.Resources = tc.in
			out := build(t, in)
			got := *out.Spec.Linux.Resources
			got.Devices = nil
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.actual, out.Resources, protocmp.Transform()); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			if s := out.Spec.Process.OOMScoreAdj; s == nil || *s != tc.score {
				t.Errorf("oom score is %v, want %d", s, tc.score)
			}
		})
	}
}

func TestSwapWithoutMemory(t *testing.T) {
	in := testInput(t)
	in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 1 << 24}
	_, err := Container(t.Context(), in)
	wantInvalid(t, err, "config.linux.resources.memory_swap_limit_in_bytes")
}

func TestResourcesOfMachine(t *testing.T) {
	in := testInput(t)
	in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 1}}}
	_, err := Container(t.Context(), in)
	wantInvalid(t, err, "config.linux.resources.hugepage_limits[0].page_size")

	in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{Unified: map[string]string{"memory.min": "1"}}
	in.Host.CgroupV2 = false
	_, err = Container(t.Context(), in)
	wantInvalid(t, err, "config.linux.resources.unified")

	in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 10 << 20}
	in.Runtime.MinMemory = 12 << 20
	_, err = Container(t.Context(), in)
	wantInvalid(t, err, "config.linux.resources.memory_limit_in_bytes")
}

func TestUpdateLimits(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	in := testInput(t)
	in.Config.Linux.Resources = &res{
		CpuShares: 100, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 80 << 20, OomScoreAdj: 500,
		CpusetCpus: "0", Unified: map[string]string{"memory.min": "1", "memory.high": "max"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2}},
	}
	in.Defaults.PidsLimit = 10
	out := build(t, in)
	current := Limits{OCI: out.Spec.Linux.Resources, CRI: out.Resources}
	before := proto.CloneOf(current.CRI)

	got, err := UpdateLimits(current, &res{
		CpuShares: 200, MemoryLimitInBytes: 32 << 20, CpusetMems: "0", OomScoreAdj: 7,
		Unified: map[string]string{"memory.high": "5"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}},
	}, in.Host)
	must(t, err)
	want := &res{
		CpuShares: 200, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 48 << 20, OomScoreAdj: 500,
		CpusetCpus: "0", CpusetMems: "0", Unified: map[string]string{"memory.min": "1", "memory.high": "5"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}},
	}
	if diff := cmp.Diff(want, got.CRI, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if r := got.OCI; *r.CPU.Shares != 200 || *r.CPU.Quota != 20000 || *r.Memory.Limit != 32<<20 || *r.Memory.Swap != 48<<20 || *r.Pids.Limit != 10 || r.Unified["memory.high"] != "5" || r.HugepageLimits[0].Limit != 4 || len(r.HugepageLimits) != 1 {
		t.Errorf("resources are %+v", r)
	}
	if !proto.Equal(before, current.CRI) || *current.OCI.CPU.Shares != 100 || current.OCI.Unified["memory.high"] != "max" {
		t.Error("the limits before were changed")
	}

	for field, bad := range map[string]*res{
		"linux.memory_limit_in_bytes":        {MemoryLimitInBytes: -1},
		"linux.memory_swap_limit_in_bytes":   {MemorySwapLimitInBytes: 63 << 20},
		"linux.unified":                      {Unified: map[string]string{"cgroup.procs": "1"}},
		"linux.hugepage_limits[0].page_size": {HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 1}}},
	} {
		_, err := UpdateLimits(current, bad, in.Host)
		wantInvalid(t, err, field)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("error is %v", err)
		}
	}
	got, err = UpdateLimits(Limits{}, nil, in.Host)
	must(t, err)
	if got.CRI == nil || got.OCI == nil {
		t.Errorf("update of nothing by nothing is %+v", got)
	}
}

func ptr[T any](v T) *T { return &v }
