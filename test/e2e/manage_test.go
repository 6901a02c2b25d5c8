package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

var maxReceive = grpc.MaxCallRecvMsgSize(64 << 20)

// TestIdempotentCreate: the same metadata is the same object, one after another
// and at the same time.
func TestIdempotentCreate(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	again, err := e.node.Runtime.RunPodSandbox(t.Context(), p.config, "")
	e.must(err)
	equal(e, "id of the repeated pod", again, p.id)
	c := e.create(p, "c", []string{"sleep", "1000"})
	again, err = e.node.Runtime.CreateContainer(t.Context(), p.id, c.config, p.config)
	e.must(err)
	equal(e, "id of the repeated container", again, c.id)

	config := e.node.Pod("many").Config()
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			id, err := e.node.Runtime.RunPodSandbox(t.Context(), config, "")
			if err != nil {
				t.Errorf("run pod: %v", err)
			}
			ids[i] = id
		})
	}
	group.Wait()
	q := &pod{ids[0], config}
	t.Cleanup(func() { e.removePod(q) })
	equal(e, "different ids", len(slices.Compact(slices.Sorted(slices.Values(ids)))), 1)
	container := kubelet.Container{Name: "many", Image: shared.image, Command: []string{"sleep", "1000"}}.Config(config)
	for i := range ids {
		group.Go(func() {
			id, err := e.node.Runtime.CreateContainer(t.Context(), q.id, container, config)
			if err != nil {
				t.Errorf("create container: %v", err)
			}
			ids[i] = id
		})
	}
	group.Wait()
	equal(e, "different ids", len(slices.Compact(slices.Sorted(slices.Values(ids)))), 1)
}

// TestIdempotentEnd: stopping and removing what is stopped, removed or unknown.
func TestIdempotentEnd(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	ctx, unknown := t.Context(), strings.Repeat("0", 64)
	for range 2 {
		e.must(e.node.Runtime.StopContainer(ctx, c.id, 0))
	}
	for range 2 {
		e.must(e.node.Runtime.RemoveContainer(ctx, c.id))
	}
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if err := e.node.Runtime.StopPodSandbox(ctx, p.id); err != nil {
				t.Errorf("stop pod: %v", err)
			}
		})
	}
	group.Wait()
	for range 2 {
		e.must(e.node.Runtime.RemovePodSandbox(ctx, p.id))
	}
	e.must(e.node.Runtime.StopPodSandbox(ctx, p.id))
	e.must(e.node.Runtime.StopContainer(ctx, unknown, 0))
	e.must(e.node.Runtime.RemoveContainer(ctx, unknown))
	e.must(e.node.Runtime.StopPodSandbox(ctx, unknown))
	e.must(e.node.Runtime.RemovePodSandbox(ctx, unknown))
}

// TestIdempotentRetryAfterFailure: a refused create may be repeated and succeed.
func TestIdempotentRetryAfterFailure(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	config := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	missing := filepath.Join(t.TempDir(), "profile.json")
	config.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: missing}
	if _, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config); err == nil {
		t.Fatal("created with a profile that does not exist")
	}
	e.must(os.WriteFile(missing, []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), 0o600))
	id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config)
	e.must(err)
	e.must(e.node.Runtime.StartContainer(t.Context(), id))
}

// TestListFilters combines every filter with every other.
func TestListFilters(t *testing.T) {
	e := onShared(t)
	label := "filter-" + kubelet.NewUID()
	labelled := func(kind string) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) {
			c.Metadata.Name += kind
			c.Labels = withLabels(c.Labels, "test", label, "kind", kind)
		}
	}
	a, b, c := e.runPod("", labelled("a")), e.runPod("", labelled("b")), e.runPod("", labelled("c"))
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), c.id))
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	notReady := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	test := map[string]string{"test": label}
	for name, tc := range map[string]struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		"label":            {&runtimeapi.PodSandboxFilter{LabelSelector: test}, []string{a.id, b.id, c.id}},
		"two labels":       {&runtimeapi.PodSandboxFilter{LabelSelector: withLabels(test, "kind", "b")}, []string{b.id}},
		"ready":            {&runtimeapi.PodSandboxFilter{LabelSelector: test, State: ready}, []string{a.id, b.id}},
		"not ready":        {&runtimeapi.PodSandboxFilter{LabelSelector: test, State: notReady}, []string{c.id}},
		"id":               {&runtimeapi.PodSandboxFilter{Id: a.id}, []string{a.id}},
		"id prefix":        {&runtimeapi.PodSandboxFilter{Id: a.id[:13]}, []string{a.id}},
		"id and state":     {&runtimeapi.PodSandboxFilter{Id: a.id, State: notReady}, nil},
		"id and label":     {&runtimeapi.PodSandboxFilter{Id: a.id, LabelSelector: withLabels(test, "kind", "b")}, nil},
		"unknown id":       {&runtimeapi.PodSandboxFilter{Id: strings.Repeat("0", 64)}, nil},
		"label of no pods": {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"test": "none"}}, nil},
	} {
		list, err := e.node.Runtime.ListPodSandbox(t.Context(), tc.filter)
		e.must(err)
		var got []string
		for _, p := range list {
			got = append(got, p.Id)
		}
		sameSet(e, "pods by "+name, got, tc.want...)
	}
	e.containerFilters(a, b, label)
}

func (e *env) containerFilters(a, b *pod, label string) {
	e.Helper()
	test := map[string]string{"test": label}
	labelled := func(c *runtimeapi.ContainerConfig) {
		c.Labels = withLabels(c.Labels, "test", label, "pod", c.Metadata.Name)
	}
	created := e.create(a, "created", []string{"true"}, labelled)
	running := e.start(a, "running", []string{"sleep", "1000"}, labelled)
	other := e.start(b, "other", []string{"sleep", "1000"}, labelled)
	exited := e.start(b, "exited", []string{"true"}, labelled)
	e.ended(exited)
	state := func(s runtimeapi.ContainerState) *runtimeapi.ContainerStateValue {
		return &runtimeapi.ContainerStateValue{State: s}
	}
	for name, tc := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"label":         {&runtimeapi.ContainerFilter{LabelSelector: test}, []string{created.id, running.id, other.id, exited.id}},
		"pod":           {&runtimeapi.ContainerFilter{PodSandboxId: a.id}, []string{created.id, running.id}},
		"created":       {&runtimeapi.ContainerFilter{LabelSelector: test, State: state(runtimeapi.ContainerState_CONTAINER_CREATED)}, []string{created.id}},
		"running":       {&runtimeapi.ContainerFilter{LabelSelector: test, State: state(runtimeapi.ContainerState_CONTAINER_RUNNING)}, []string{running.id, other.id}},
		"exited":        {&runtimeapi.ContainerFilter{LabelSelector: test, State: state(runtimeapi.ContainerState_CONTAINER_EXITED)}, []string{exited.id}},
		"id":            {&runtimeapi.ContainerFilter{Id: running.id}, []string{running.id}},
		"id prefix":     {&runtimeapi.ContainerFilter{Id: running.id[:13]}, []string{running.id}},
		"id, other pod": {&runtimeapi.ContainerFilter{Id: running.id, PodSandboxId: b.id}, nil},
	} {
		list, err := e.node.Runtime.ListContainers(e.Context(), tc.filter)
		e.must(err)
		var got []string
		for _, c := range list {
			got = append(got, c.Id)
			if c.ImageId == "" || c.ImageRef == "" || c.Image.GetImage() == "" || c.PodSandboxId == "" {
				e.Errorf("container in the list is %v", c)
			}
		}
		sameSet(e, "containers by "+name, got, tc.want...)
	}
}

// TestUpdateResources changes limits and reads them back from the kernel's side.
func TestUpdateResources(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, memoryLimit(64<<20))
		for _, memory := range []int64{128 << 20, 32 << 20} {
			e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: memory, MemorySwapLimitInBytes: memory,
			}}))
			equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(memory))
			got := e.status(c.id).Resources.GetLinux()
			if got.GetMemoryLimitInBytes() != memory || got.GetCpuQuota() != 50000 || got.GetCpuPeriod() != 100000 || got.GetCpuShares() != 512 {
				e.Errorf("resources in the status are %v", got)
			}
		}
		// 0 is "leave it".
		e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 1024}}))
		equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(32<<20))
		equal(e, "quota in the status", e.status(c.id).Resources.GetLinux().GetCpuQuota(), 50000)
		if err := e.node.Runtime.UpdateContainerResources(e.Context(), strings.Repeat("0", 64), &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 10}}); err == nil {
			e.Error("updated an unknown container")
		}
	})
}

// cgroupValue reads a file of the container's cgroup, by its name in cgroup v1
// and v2. In a scope of systemd crun makes a cgroup of its own for the container.
func (e *env) cgroupValue(id, v1, v2 string) string {
	e.Helper()
	roots, err := invariant.CgroupMounts()
	e.must(err)
	for _, root := range roots {
		for _, name := range []string{v1, v2} {
			found, err := filepath.Glob(filepath.Join(root, e.node.CgroupParent, "*", "*", "*"+id+"*", "container", name))
			e.must(err)
			if len(found) == 0 {
				found, err = filepath.Glob(filepath.Join(root, e.node.CgroupParent, "*", "*", "*"+id+"*", name))
				e.must(err)
			}
			if len(found) == 1 {
				data, err := os.ReadFile(found[0])
				e.must(err)
				return strings.TrimSpace(string(data))
			}
		}
	}
	e.Fatalf("no %s or %s of %s", v1, v2, id)
	return ""
}

// withLabels returns m with more entries.
func withLabels(m map[string]string, kv ...string) map[string]string {
	out := maps.Clone(m)
	for i := 0; i+1 < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}
