package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
)

// TestUpdateIsTransactional: an update that the kernel refuses in its second
// half leaves nothing of the first, in the cgroup or in the status.
func TestUpdateIsTransactional(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 200, MemoryLimitInBytes: 64 << 20}
		})
		before := e.cgroupValues(c.id)
		err := e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{
			CpuShares: 300, CpuPeriod: 50000, CpuQuota: 20000, MemoryLimitInBytes: 128 << 20, CpusetCpus: "4000",
		}})
		if err == nil {
			e.Fatal("a machine with 4000 processors")
		}
		equal(e, "cgroup after a failed update", e.cgroupValues(c.id), before)
		r := e.status(c.id).GetResources().GetLinux()
		equal(e, "shares in the status", r.GetCpuShares(), 200)
		equal(e, "memory in the status", r.GetMemoryLimitInBytes(), int64(64<<20))
		for range 2 {
			e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 300}}))
		}
		equal(e, "shares in the status", e.status(c.id).GetResources().GetLinux().GetCpuShares(), 300)
	})
}

// TestFailedUpdateTakesAwayWhatItSet: a limit that the container did not have
// before is gone again, not only back at some value.
func TestFailedUpdateTakesAwayWhatItSet(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		cpuset := func() string {
			return e.exec(c.id, "sh", "-c", "cat /sys/fs/cgroup/cpuset/cpuset.cpus /sys/fs/cgroup/cpuset.cpus 2>/dev/null || true")
		}
		allowed := func() string { return e.exec(c.id, "grep", "_allowed_list", "/proc/self/status") }
		before, allowedBefore := cpuset(), allowed()
		update := &runtimeapi.LinuxContainerResources{CpusetCpus: "0", CpusetMems: "4000"}
		if err := e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: update}); err == nil {
			e.Fatal("a machine with 4000 memory nodes")
		}
		equal(e, "processors and nodes after a failed update", allowed(), allowedBefore)
		if strings.TrimSpace(before) != "" { // else systemd names now what comes from above
			equal(e, "cpuset after a failed update", cpuset(), before)
		}
		// Not even another update brings it back.
		other := &runtimeapi.LinuxContainerResources{CpuShares: 300}
		e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: other}))
		equal(e, "processors and nodes after another update", allowed(), allowedBefore)
		update = &runtimeapi.LinuxContainerResources{CpusetCpus: "0"}
		e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: update}))
		contains(e, "cpuset", "\n"+cpuset(), "\n0\n")
	})
}

// cgroupValues reads the limits of a container from the kernel.
func (e *env) cgroupValues(id string) string {
	e.Helper()
	return e.exec(id, "sh", "-c", `for c in memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us cpu,cpuacct/cpu.shares memory.max cpu.weight cpu.max; do
		f=/sys/fs/cgroup/$c; [ ! -f $f ] || echo $c $(cat $f); done`)
}

// TestUpdatePodSandboxResources keeps what kubelet says and shows it.
func TestUpdatePodSandboxResources(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	update := &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 777},
	}
	for range 2 {
		_, err := e.node.Raw.UpdatePodSandboxResources(t.Context(), update)
		e.must(err)
	}
	r, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, true)
	e.must(err)
	if info := r.Info["info"]; !json.Valid([]byte(info)) || !strings.Contains(info, "777") {
		t.Errorf("verbose status is %s", info)
	}
	update.PodSandboxId = strings.Repeat("0", 64)
	if _, err := e.node.Raw.UpdatePodSandboxResources(t.Context(), update); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown pod: %v", err)
	}
}

// TestUpdateRuntimeConfig: pods get addresses out of what kubelet says, also
// after a restart.
func TestUpdateRuntimeConfig(t *testing.T) {
	e := ownNode(t, node.Options{Number: 42, NoConfList: true})
	set := func(cidr string) error {
		_, err := e.node.Raw.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
		})
		return err
	}
	for _, bad := range []string{"10.0.0.0", "10.0.0.1/24", "10.1.0.0/24,10.2.0.0/24", "x", ","} {
		if err := set(bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", bad, err)
		}
	}
	e.must(set(""))
	// This node's operator has chosen its subnets, so they stay.
	e.must(set("10.250.0.0/24,fd00:250::/64"))
	p := e.runPod("")
	r, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, false)
	e.must(err)
	if ip := r.Status.GetNetwork().GetIp(); strings.HasPrefix(ip, "10.250.") {
		t.Errorf("the operator's subnets were replaced: %s", ip)
	}
}

// TestPodCIDRsThroughATemplate: what kubelet says fills in the operator's template,
// in both families; pods made from then on have their addresses from it, also after
// it has changed while pods use the bridge, and in the next daemon.
func TestPodCIDRsThroughATemplate(t *testing.T) {
	template := filepath.Join(t.TempDir(), "template")
	e := ownNode(t, node.Options{Number: 43, NoConfList: true, Config: fmt.Sprintf("[network]\nconf_template = %q\ndefault = false\n", template)})
	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "net-%s", "plugins": [{
		"type": "bridge", "bridge": %q, "isGateway": true, "forceAddress": true,
		"ipam": {"type": "host-local", "dataDir": %q,
			"ranges": [{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}],
			"routes": [{{range $i, $r := .Routes}}{{if $i}}, {{end}}{"dst": "{{$r}}"}{{end}}]}
		}]}`, filepath.Base(e.node.Dir), e.node.Bridge, filepath.Join(e.node.Dir, "leases"))
	e.must(os.WriteFile(template, []byte(text), 0o600))
	ready := func() bool {
		r, err := e.node.Runtime.Status(t.Context(), false)
		e.must(err)
		return slices.ContainsFunc(r.Status.Conditions, func(c *runtimeapi.RuntimeCondition) bool {
			return c.Type == runtimeapi.NetworkReady && c.Status
		})
	}
	equal(e, "readiness before kubelet says a CIDR", ready(), false)
	podIn := func(name string, cidrs ...string) {
		t.Helper()
		p := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-" + name })
		r, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, false)
		e.must(err)
		n := r.Status.GetNetwork()
		ips := []string{n.GetIp()}
		for _, ip := range n.GetAdditionalIps() {
			ips = append(ips, ip.Ip)
		}
		equal(e, "number of addresses", len(ips), len(cidrs))
		for i, ip := range ips {
			if addr, err := netip.ParseAddr(ip); err != nil || !netip.MustParsePrefix(cidrs[i]).Contains(addr) {
				t.Errorf("pod %s has %s, which is not in %s", name, ip, cidrs[i])
			}
		}
	}
	set := func(cidrs ...string) {
		t.Helper()
		_, err := e.node.Raw.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: strings.Join(cidrs, ",")}},
		})
		e.must(err)
	}
	first, second := []string{"10.249.1.0/24", "fd00:e2e:249:1::/64"}, []string{"10.249.2.0/24", "fd00:e2e:249:2::/64"}
	set(first...)
	equal(e, "readiness", ready(), true)
	podIn("first", first...)
	set(first[:1]...)
	podIn("one-family", first[:1]...)
	set(second...)
	podIn("second", second...)
	e.must(e.node.Stop(20 * time.Second))
	e.must(e.node.Restart(t.Context()))
	podIn("restarted", second...)
}
