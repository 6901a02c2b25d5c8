package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// TestNRIAdjust changes a container before it is made, and sees the changes
// inside of it and in its status.
func TestNRIAdjust(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		source := filepath.Join(t.TempDir(), "source")
		e.must(os.MkdirAll(source, 0o755))
		e.must(os.WriteFile(filepath.Join(source, "file"), []byte("from a plugin\n"), 0o644))
		e.plugin("10", "adjusts", func(p *nriPlugin) {
			p.adjust = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
				if c.GetName() != "adjusted" {
					return nil, nil
				}
				a := &api.ContainerAdjustment{}
				a.AddEnv("ADDED", "by a plugin")
				a.RemoveEnv("KUBERNETES_SERVICE_PORT")
				a.AddMount(&api.Mount{Destination: "/plugin", Type: "bind", Source: source, Options: []string{"rbind", "ro"}})
				a.AddDevice(&api.LinuxDevice{Path: "/dev/odd", Type: "c", Major: 1, Minor: 3, FileMode: api.FileMode(os.FileMode(0o666))})
				a.AddRlimit("RLIMIT_NOFILE", 123, 123)
				a.SetLinuxMemoryLimit(96 << 20)
				a.SetLinuxCPUShares(300)
				a.SetLinuxOomScoreAdj(pointer(777))
				return a, nil
			}
		})
		p := e.runPod(handler)
		c := e.start(p, "adjusted", []string{"sleep", "1000"}, memoryLimit(64<<20))
		script := "env; cat /plugin/file; ls -l /dev/odd; touch /plugin/x 2>&1; ulimit -n; cat /proc/1/oom_score_adj; echo x >/dev/odd"
		out := e.exec(c.id, "sh", "-c", script)
		contains(e, "what is inside", out, "ADDED=by a plugin\n", "from a plugin\n", "1,   3", "Read-only file system", "\n123\n", "\n777\n")
		equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(96<<20))
		got := e.status(c.id).Resources.GetLinux()
		if got.GetMemoryLimitInBytes() != 96<<20 || got.GetCpuShares() != 300 || got.GetOomScoreAdj() != 777 {
			e.Errorf("resources in the status are %v", got)
		}
		// An update builds on it.
		e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 400}}))
		equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(96<<20))
		other := e.sh(p, "other", "env; ls /plugin 2>&1")
		contains(e, "another container", other.stdout+other.stderr, "No such file", "KUBERNETES_SERVICE_PORT=")
	})
}

func pointer[V any](v V) *V { return &v }

// TestNRIBadAdjustment: what cannot be applied fails the container, and leaves
// nothing.
func TestNRIBadAdjustment(t *testing.T) {
	e := onShared(t)
	bad := map[string]func(*api.ContainerAdjustment){
		"namespace": func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "odd"}) },
		"cdi":       func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "no.such/vendor=device"}) },
		"cgroup":    func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("../up") },
		"memory":    func(a *api.ContainerAdjustment) { a.SetLinuxMemoryLimit(1) },
		"nil":       func(a *api.ContainerAdjustment) { a.Mounts = []*api.Mount{{}} },
	}
	plugin := e.plugin("10", "bad", func(p *nriPlugin) {
		p.adjust = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
			a := &api.ContainerAdjustment{}
			if f := bad[c.GetName()]; f != nil {
				f(a)
			}
			return a, nil
		}
	})
	p := e.runPod("")
	for name := range bad {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			config := kubelet.Container{Name: name, Image: shared.image, Command: []string{"true"}}.Config(p.config)
			if id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config); err == nil {
				t.Errorf("created %s", id)
			}
			steps := plugin.all()
			e.wants(plugin, steps[len(steps)-1].container, "create", "remove")
		})
	}
	equal(e, "exit code of a good one", e.runs(p, "good", []string{"true"}).status.ExitCode, 0)
}

// TestNRICgroup moves a container into a cgroup of the plugin's choice, which
// is gone with it.
func TestNRICgroup(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		// Where it goes, and how a plugin says so: with systemd as slice:prefix:name.
		parent := e.node.CgroupParent + "/chosen"
		named, prefix, suffix := parent+"/", "", ""
		if node.Systemd() {
			slice := strings.TrimSuffix(filepath.Base(e.node.CgroupParent), ".slice") + "-chosen.slice"
			parent = e.node.CgroupParent + "/" + slice
			named, prefix, suffix = slice+":moved:", "moved-", ".scope"
		}
		e.plugin("10", "cgroup", func(p *nriPlugin) {
			p.adjust = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
				a := &api.ContainerAdjustment{}
				a.SetLinuxCgroupsPath(named + c.GetId())
				return a, nil
			}
		})
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", e.process(c).PID))
		e.must(err)
		own := parent + "/" + prefix + c.id + suffix
		contains(e, "cgroups", string(cgroups), own)
		e.must(e.node.Runtime.RemoveContainer(e.Context(), c.id))
		for _, tree := range []string{"", "*"} {
			left, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", tree, own))
			e.must(err)
			if len(left) > 0 {
				e.Errorf("left of the cgroup: %q", left)
			}
		}
		// The parent is the plugin's.
		e.removeCgroups(parent)
	})
}

// removeCgroups removes a cgroup from each tree.
func (e *env) removeCgroups(path string) {
	e.Helper()
	found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", path))
	e.must(err)
	for _, dir := range append(found, filepath.Join("/sys/fs/cgroup", path)) {
		_ = os.Remove(dir)
	}
}

// TestNRIUpdate: plugins change an update, and other containers along with it.
func TestNRIUpdate(t *testing.T) {
	e := onShared(t)
	var other string
	plugin := e.plugin("10", "updates", func(p *nriPlugin) {
		p.update = func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
			own := &api.ContainerUpdate{}
			own.SetContainerId(c.GetId())
			own.SetLinuxMemoryLimit(r.GetMemory().GetLimit().GetValue() / 2)
			also := &api.ContainerUpdate{}
			also.SetContainerId(other)
			also.SetLinuxCPUShares(222)
			return []*api.ContainerUpdate{own, also}
		}
	})
	p := e.runPod("")
	other = e.start(p, "other", []string{"sleep", "1000"}).id
	c := e.start(p, "c", []string{"sleep", "1000"}, memoryLimit(64<<20))
	e.must(e.node.Runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 50000, CpuPeriod: 100000}}))
	equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(64<<20))
	got := e.status(c.id).Resources.GetLinux()
	if got.GetMemoryLimitInBytes() != 64<<20 || got.GetCpuQuota() != 50000 {
		t.Errorf("resources in the status are %v", got)
	}
	equal(e, "shares of the other", e.status(other).Resources.GetLinux().GetCpuShares(), 222)
	e.wants(plugin, c.id, "create", "created", "start", "started", "update", "updated")
	plugin.mu.Lock()
	defer plugin.mu.Unlock()
	equal(e, "limit that plugins were told last", plugin.limits[c.id], 64<<20)
}

// TestNRIUnsolicited: a plugin changes limits by itself, also of what is not
// there, and from within Synchronize.
func TestNRIUnsolicited(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, memoryLimit(64<<20))
		limit := func(id string, n int64) *api.ContainerUpdate {
			u := &api.ContainerUpdate{}
			u.SetContainerId(id)
			u.SetLinuxMemoryLimit(n)
			return u
		}
		plugin := e.plugin("10", "unsolicited", func(p *nriPlugin) {
			p.sync = func(context.Context) []*api.ContainerUpdate { return []*api.ContainerUpdate{limit(c.id, 80<<20)} }
		})
		e.eventually(10*time.Second, func() error {
			if got := e.status(c.id).Resources.GetLinux().GetMemoryLimitInBytes(); got != 80<<20 {
				return fmt.Errorf("limit in the status is %d", got)
			}
			return nil
		})
		pids := limit(c.id, 96<<20)
		pids.SetLinuxPidLimits(44)
		missing := limit("0000", 1<<30)
		missing.SetIgnoreFailure()
		failed, err := plugin.stub.UpdateContainers([]*api.ContainerUpdate{missing, pids})
		e.must(err)
		if len(failed) != 1 || failed[0].GetContainerId() != "0000" {
			e.Errorf("failed updates are %v", failed)
		}
		equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(96<<20))
		equal(e, "limit in the status", e.status(c.id).Resources.GetLinux().GetMemoryLimitInBytes(), 96<<20)
		equal(e, "limit of processes", e.cgroupValue(c.id, "pids.max", "pids.max"), "44")
		// What CRI does not know outlives its updates.
		e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 400}}))
		equal(e, "limit of processes", e.cgroupValue(c.id, "pids.max", "pids.max"), "44")
		equal(e, "limit in the cgroup", e.cgroupValue(c.id, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(96<<20))
		if _, err := plugin.stub.UpdateContainers([]*api.ContainerUpdate{limit("0000", 1<<30)}); err == nil {
			e.Error("updated what is not there")
		}
	})
}

// TestNRIUpdatePod notes the limits of a pod and tells of them.
func TestNRIUpdatePod(t *testing.T) {
	e := onShared(t)
	plugin := e.plugin("10", "pods")
	p := e.runPod("")
	raw := e.node.Raw
	_, err := raw.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 321},
	})
	e.must(err)
	e.wants(plugin, p.id, "run", "update", "updated")
	s, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, true)
	e.must(err)
	contains(e, "verbose status", s.Info["info"], "321")
	for _, bad := range []*runtimeapi.UpdatePodSandboxResourcesRequest{{PodSandboxId: "none"}, {PodSandboxId: p.id}} {
		if _, err := raw.UpdatePodSandboxResources(t.Context(), bad); err == nil {
			t.Errorf("took %v", bad)
		}
	}
}
