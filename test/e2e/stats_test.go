package e2e

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// stats asks what a container uses.
func (e *env) stats(id string) *runtimeapi.ContainerStats {
	e.Helper()
	s, err := e.node.Runtime.ContainerStats(e.Context(), id)
	if err != nil {
		e.Fatalf("stats of container: %v", err)
	}
	return s
}

// podStats asks what a pod uses.
func (e *env) podStats(id string) *runtimeapi.PodSandboxStats {
	e.Helper()
	s, err := e.node.Runtime.PodSandboxStats(e.Context(), id)
	if err != nil {
		e.Fatalf("stats of pod: %v", err)
	}
	return s
}

// TestContainerStats: right after the start, and what a load does to them.
func TestContainerStats(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources.MemoryLimitInBytes = 256 << 20
		})
		s := e.stats(c.id)
		equal(e, "id", s.GetAttributes().GetId(), c.id)
		equal(e, "name", s.GetAttributes().GetMetadata().GetName(), "c")
		if !maps.Equal(s.GetAttributes().GetLabels(), c.config.Labels) || !maps.Equal(s.GetAttributes().GetAnnotations(), c.config.Annotations) {
			e.Errorf("attributes are %v", s.GetAttributes())
		}
		for what, at := range map[string]int64{
			"cpu": s.GetCpu().GetTimestamp(), "memory": s.GetMemory().GetTimestamp(), "writable layer": s.GetWritableLayer().GetTimestamp(),
		} {
			if age := time.Since(time.Unix(0, at)); age < 0 || age > time.Minute {
				e.Errorf("timestamp of %s is %v old", what, age)
			}
		}
		if s.GetCpu().GetUsageCoreNanoSeconds() == nil || s.GetMemory().GetUsageBytes() == nil || s.GetMemory().GetRssBytes() == nil ||
			s.GetMemory().GetPageFaults() == nil || s.GetMemory().GetMajorPageFaults() == nil || s.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			e.Errorf("stats lack something: %v", s)
		}
		if free := s.GetMemory().GetAvailableBytes().GetValue(); free == 0 || free > 256<<20 {
			e.Errorf("%d bytes available of a limit of %d", free, 256<<20)
		}

		burn := e.start(p, "burn", []string{"sh", "-c", "while :; do :; done"})
		e.eventually(20*time.Second, func() error {
			cpu := e.stats(burn.id).GetCpu()
			if cpu.GetUsageNanoCores().GetValue() < 50_000_000 || cpu.GetUsageCoreNanoSeconds().GetValue() < 50_000_000 {
				return fmt.Errorf("a loop uses %v", cpu)
			}
			return nil
		})
		e.must(e.node.Runtime.StopContainer(e.Context(), burn.id, 0))
		hog := e.start(p, "hog", []string{"sh", "-c", "/bin/probe hog -mib 32 & /bin/probe trap; wait"})
		grow := e.stats(hog.id)
		e.exec(hog.id, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=20 2>/dev/null; mkdir -p /a/b/c")
		e.eventually(30*time.Second, func() error {
			s := e.stats(hog.id)
			// The command alone makes so many; huge pages take few for the rest.
			if faults := s.GetMemory().GetPageFaults().GetValue(); faults < grow.GetMemory().GetPageFaults().GetValue()+50 {
				return fmt.Errorf("memory is %v, was %v", s.GetMemory(), grow.GetMemory())
			}
			if got := s.GetWritableLayer(); got.GetUsedBytes().GetValue() < 20<<20 || got.GetInodesUsed().GetValue() < grow.GetWritableLayer().GetInodesUsed().GetValue()+4 {
				return fmt.Errorf("writable layer is %v, was %v", got, grow.GetWritableLayer())
			}
			return nil
		})
		// In place: only the watch on the layer can tell.
		e.exec(hog.id, "sh", "-c", "dd if=/dev/zero bs=1M count=10 2>/dev/null >> /big")
		e.eventually(30*time.Second, func() error {
			if got := e.stats(hog.id).GetWritableLayer().GetUsedBytes().GetValue(); got < 30<<20 {
				return fmt.Errorf("writable layer is %d", got)
			}
			return nil
		})
		e.exec(hog.id, "rm", "/big")
		e.eventually(30*time.Second, func() error {
			if got := e.stats(hog.id).GetWritableLayer().GetUsedBytes().GetValue(); got > 10<<20 {
				return fmt.Errorf("writable layer is %d after a deletion", got)
			}
			return nil
		})

		// One that does not run is no error; its cgroup may still be there.
		e.must(e.node.Runtime.StopContainer(e.Context(), c.id, 0))
		s = e.stats(c.id)
		if s.GetCpu().GetTimestamp() == 0 || s.GetMemory().GetTimestamp() == 0 || s.GetWritableLayer() == nil {
			e.Errorf("stats of a stopped container: %v", s)
		}
		_, err := e.node.Runtime.ContainerStats(e.Context(), strings.Repeat("0", 64))
		equal(e, "code for an unknown container", grpcstatus.Code(err), codes.NotFound)
	})
}

// TestListContainerStats: running ones only, and the filters.
func TestListContainerStats(t *testing.T) {
	e := onShared(t)
	p, other := e.runPod(""), e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-other" })
	label := func(v string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Labels["stats-test"] = v }
	}
	one := e.start(p, "one", []string{"sleep", "1000"}, label("x"))
	two := e.start(p, "two", []string{"sleep", "1000"}, label("y"))
	three := e.start(other, "three", []string{"sleep", "1000"}, label("x"))
	created := e.create(other, "created", []string{"sleep", "1000"}, label("x"))
	done := e.start(other, "done", []string{"true"}, label("x"))
	e.await(done.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
	for _, test := range []struct {
		filter *runtimeapi.ContainerStatsFilter
		want   []string
	}{
		{nil, []string{one.id, two.id, three.id}},
		{&runtimeapi.ContainerStatsFilter{}, []string{one.id, two.id, three.id}},
		{&runtimeapi.ContainerStatsFilter{Id: one.id}, []string{one.id}},
		{&runtimeapi.ContainerStatsFilter{Id: one.id[:20]}, []string{one.id}},
		{&runtimeapi.ContainerStatsFilter{Id: created.id}, nil},
		{&runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}, []string{one.id, two.id}},
		{&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"stats-test": "x"}}, []string{one.id, three.id}},
		{&runtimeapi.ContainerStatsFilter{PodSandboxId: p.id, LabelSelector: map[string]string{"stats-test": "x"}}, []string{one.id}},
		{&runtimeapi.ContainerStatsFilter{Id: two.id, LabelSelector: map[string]string{"stats-test": "x"}}, nil},
		{&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"foo": "baz"}}, nil},
	} {
		list, err := e.node.Runtime.ListContainerStats(e.Context(), test.filter)
		e.must(err)
		var ids []string
		for _, s := range list {
			if id := s.GetAttributes().GetId(); slices.Contains([]string{one.id, two.id, three.id, created.id, done.id}, id) {
				ids = append(ids, id)
			}
		}
		sameSet(e, fmt.Sprintf("list with %v", test.filter), ids, test.want...)
	}
}

// echo sends datagrams to a pod, which sends them back.
func (e *env) echo(p *pod, count, size int) {
	e.Helper()
	server := e.start(p, "echo", []string{"/bin/probe", "udp"})
	e.logHas(server, "listening")
	st, err := e.node.Runtime.PodSandboxStatus(e.Context(), p.id, false)
	e.must(err)
	conn, err := net.Dial("udp", net.JoinHostPort(st.GetStatus().GetNetwork().GetIp(), "8081"))
	e.must(err)
	defer conn.Close()
	buf := make([]byte, size)
	for range count {
		_, err := conn.Write(buf)
		e.must(err)
		e.must(conn.SetReadDeadline(time.Now().Add(pace.Limit(5 * time.Second))))
		_, err = conn.Read(buf)
		e.must(err)
	}
}

// TestPodStats: a pod's sums, processes and network.
func TestPodStats(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		e.start(p, "c", []string{"sh", "-c", "sleep 1000 & sleep 1001 & sleep 1002; wait"})
		e.start(p, "d", []string{"sleep", "1000"})
		e.eventually(20*time.Second, func() error {
			if n := e.podStats(p.id).GetLinux().GetProcess().GetProcessCount().GetValue(); n != 5 {
				return fmt.Errorf("%d processes", n)
			}
			return nil
		})
		s := e.podStats(p.id)
		equal(e, "id", s.GetAttributes().GetId(), p.id)
		equal(e, "name", s.GetAttributes().GetMetadata().GetName(), p.config.Metadata.Name)
		if !maps.Equal(s.GetAttributes().GetLabels(), p.config.Labels) || !maps.Equal(s.GetAttributes().GetAnnotations(), p.config.Annotations) {
			e.Errorf("attributes are %v", s.GetAttributes())
		}
		l := s.GetLinux()
		equal(e, "containers", len(l.GetContainers()), 2)
		sum := uint64(0)
		for _, c := range l.GetContainers() {
			sum += c.GetMemory().GetUsageBytes().GetValue()
		}
		// kubelet made a cgroup for the pod; pages that a container left stay in it.
		if got := l.GetMemory().GetUsageBytes().GetValue(); got < sum/2 || l.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			e.Errorf("memory of the pod is %d, of its containers %d; cpu %v", got, sum, l.GetCpu())
		}
		nic := l.GetNetwork().GetDefaultInterface()
		equal(e, "default interface", nic.GetName(), "eth0")
		for _, other := range l.GetNetwork().GetInterfaces() {
			if other.GetName() == "lo" || other.GetName() == "eth0" {
				e.Errorf("interfaces hold %v", other)
			}
		}
		e.echo(p, 30, 1000)
		e.eventually(20*time.Second, func() error {
			now := e.podStats(p.id).GetLinux().GetNetwork().GetDefaultInterface()
			if now.GetTxBytes().GetValue() < nic.GetTxBytes().GetValue()+20_000 || now.GetRxBytes().GetValue() < nic.GetRxBytes().GetValue()+20_000 {
				return fmt.Errorf("after 20 kB each way: %v, before %v", now, nic)
			}
			return nil
		})

		e.must(e.node.Runtime.StopPodSandbox(e.Context(), p.id))
		s = e.podStats(p.id)
		if s.GetLinux().GetNetwork() != nil || len(s.GetLinux().GetContainers()) != 0 || s.GetLinux().GetCpu().GetTimestamp() == 0 {
			e.Errorf("stats of a stopped pod: %v", s)
		}
		list, err := e.node.Runtime.ListPodSandboxStats(e.Context(), nil)
		e.must(err)
		for _, s := range list {
			if s.GetAttributes().GetId() == p.id {
				e.Error("a stopped pod is listed")
			}
		}
		for _, id := range []string{"", strings.Repeat("0", 64)} {
			_, err := e.node.Runtime.PodSandboxStats(e.Context(), id)
			equal(e, "code for pod "+id, grpcstatus.Code(err), codes.NotFound)
		}
	})
}

// TestPodStatsApart: what pods share is charged to none of them.
func TestPodStatsApart(t *testing.T) {
	e := onShared(t)
	hostNetwork := func(c *runtimeapi.PodSandboxConfig) {
		c.Metadata.Name += "-host"
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	}
	noParent := func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "" }
	hog := e.runPod("", noParent, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-hog" })
	idle := e.runPod("", noParent, hostNetwork)
	e.start(hog, "c", []string{"sh", "-c", "while :; do :; done"})
	e.start(idle, "c", []string{"sleep", "1000"})
	e.eventually(20*time.Second, func() error {
		if used := e.podStats(hog.id).GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue(); used < 2_000_000_000 {
			return fmt.Errorf("a loop has used %d ns", used)
		}
		return nil
	})
	s := e.podStats(idle.id).GetLinux()
	if used := s.GetCpu().GetUsageCoreNanoSeconds().GetValue(); used == 0 || used > 1_000_000_000 {
		e.Errorf("an idle pod has used %d ns", used)
	}
	if s.GetNetwork() != nil {
		e.Errorf("a pod in the host's network has the host's traffic: %v", s.GetNetwork())
	}
	list, err := e.node.Runtime.ListPodSandboxStats(e.Context(), &runtimeapi.PodSandboxStatsFilter{Id: idle.id})
	e.must(err)
	if len(list) != 1 || list[0].GetAttributes().GetId() != idle.id {
		e.Errorf("list of one: %v", list)
	}
	list, err = e.node.Runtime.ListPodSandboxStats(e.Context(), &runtimeapi.PodSandboxStatsFilter{LabelSelector: idle.config.Labels})
	e.must(err)
	equal(e, "pods with the labels of one", len(list), 1)
	list, err = e.node.Runtime.ListPodSandboxStats(e.Context(), &runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"foo": "baz"}})
	e.must(err)
	equal(e, "pods with labels that none has", len(list), 0)
}

// TestPodMetrics: every metric that is described comes, with its labels, at
// once after the start.
func TestPodMetrics(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sh", "-c", "exec 8</bin/sh; sleep 1000"}, func(c *runtimeapi.ContainerConfig) {
			r := c.Linux.Resources
			r.CpuQuota, r.CpuShares, r.MemoryLimitInBytes = 20000, 512, 64<<20
		})
		descriptors, err := e.node.Runtime.ListMetricDescriptors(e.Context())
		e.must(err)
		all, err := e.node.Runtime.ListPodSandboxMetrics(e.Context())
		e.must(err)
		samples := map[string][]*runtimeapi.Metric{}
		series := map[string]bool{}
		for _, pod := range all {
			if pod.GetPodSandboxId() != p.id {
				continue
			}
			found := pod.GetMetrics()
			for _, m := range pod.GetContainerMetrics() {
				equal(e, "container", m.GetContainerId(), c.id)
				found = append(found, m.GetMetrics()...)
			}
			for _, m := range found {
				samples[m.GetName()] = append(samples[m.GetName()], m)
				key := m.GetName() + strings.Join(m.GetLabelValues(), "\x00")
				if series[key] {
					e.Errorf("%s comes twice with %q: kubelet would drop all", m.GetName(), m.GetLabelValues())
				}
				series[key] = true
			}
		}
		keys := map[string][]string{}
		for _, d := range descriptors {
			keys[d.GetName()] = d.GetLabelKeys()
			if d.GetHelp() == "" || len(d.GetLabelKeys()) == 0 {
				e.Errorf("descriptor %v", d)
			}
			if len(samples[d.GetName()]) == 0 {
				e.Errorf("%s is described and does not come", d.GetName())
			}
		}
		for name, list := range samples {
			for _, m := range list {
				if len(m.GetLabelValues()) != len(keys[name]) {
					e.Errorf("%s has labels %q for %q", name, m.GetLabelValues(), keys[name])
				}
			}
		}
		label := func(m *runtimeapi.Metric, key string) string {
			if i := slices.Index(keys[m.GetName()], key); i >= 0 {
				return m.GetLabelValues()[i]
			}
			return ""
		}
		for name, want := range map[string]uint64{
			"container_processes": 1, "container_spec_cpu_quota": 20000, "container_spec_cpu_period": 100000,
			"container_spec_cpu_shares": 512, "container_spec_memory_limit_bytes": 64 << 20, "container_oom_events_total": 0,
		} {
			if len(samples[name]) != 1 {
				e.Errorf("%d samples of %s", len(samples[name]), name)
				continue
			}
			m := samples[name][0]
			equal(e, name, m.GetValue().GetValue(), want)
			equal(e, "timestamp of "+name, m.GetTimestamp(), 0)
			for key, want := range map[string]string{
				"name": c.id, "container": "c", "image": shared.image, "pod": p.config.Metadata.Name, "namespace": p.config.Metadata.Namespace,
			} {
				equal(e, key+" of "+name, label(m, key), want)
			}
		}
		for _, name := range []string{"container_file_descriptors", "container_threads", "container_memory_usage_bytes", "container_last_seen", "container_start_time_seconds", "container_fs_limit_bytes"} {
			if len(samples[name]) != 1 || samples[name][0].GetValue().GetValue() == 0 {
				e.Errorf("%s is %v", name, samples[name])
			}
		}
		for _, m := range samples["container_network_receive_bytes_total"] {
			equal(e, "interface", label(m, "interface"), "eth0")
		}
	})
}

// TestStatsLeaveNothing: what is kept open while containers run is closed when
// they end, and a restart of the daemon takes up again.
func TestStatsLeaveNothing(t *testing.T) {
	e := onShared(t)
	daemon, err := e.node.Daemon()
	e.must(err)
	ask := func() {
		for range 2 {
			_, err := e.node.Runtime.ListContainerStats(e.Context(), nil)
			e.must(err)
			_, err = e.node.Runtime.ListPodSandboxStats(e.Context(), nil)
			e.must(err)
			_, err = e.node.Runtime.ListPodSandboxMetrics(e.Context())
			e.must(err)
		}
	}
	ask()
	before, err := usage.Descriptors(daemon.PID)
	e.must(err)
	containers := pace.Count(50, 10)
	p := e.runPod("")
	for i := range containers {
		e.start(p, fmt.Sprint("c", i), []string{"sleep", "1000"})
	}
	ask()
	during, err := usage.Descriptors(daemon.PID)
	e.must(err)
	if during <= before {
		e.Logf("nothing is kept open: %d descriptors, then %d", before, during)
	}
	e.must(e.node.Runtime.StopPodSandbox(e.Context(), p.id))
	e.eventually(20*time.Second, func() error {
		// What watches writable layers is shared and stays, within its bound.
		after, err := usage.Descriptors(daemon.PID)
		if err == nil && after > before+40 {
			err = fmt.Errorf("%d descriptors before, %d with %d containers, %d after", before, during, containers, after)
		}
		return err
	})
}

// TestStatsAfterRestart: figures are there again without anybody waiting.
func TestStatsAfterRestart(t *testing.T) {
	e := ownNode(t, node.Options{Number: 44})
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	e.exec(c.id, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=5 2>/dev/null")
	e.must(e.node.Kill())
	e.must(e.node.Restart(e.Context()))
	e.eventually(20*time.Second, func() error {
		s := e.stats(c.id)
		if got := s.GetWritableLayer().GetUsedBytes().GetValue(); got < 5<<20 || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			return fmt.Errorf("stats are %v", s)
		}
		return nil
	})
	e.exec(c.id, "sh", "-c", "dd if=/dev/zero bs=1M count=5 2>/dev/null >> /big")
	e.eventually(20*time.Second, func() error {
		if got := e.stats(c.id).GetWritableLayer().GetUsedBytes().GetValue(); got < 10<<20 {
			return fmt.Errorf("writable layer is %d", got)
		}
		return nil
	})
}
