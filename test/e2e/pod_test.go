package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// options gives access to a pod's namespace options.
func options(c *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return c.Linux.SecurityContext.NamespaceOptions
}

// inNamespaces makes a container use the pid mode, and the pod's other modes.
func inNamespaces(p *pod, pid runtimeapi.NamespaceMode, target string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		o := c.Linux.SecurityContext.NamespaceOptions
		o.Network, o.Ipc = options(p.config).Network, options(p.config).Ipc
		o.Pid, o.TargetId = pid, target
	}
}

func hostLink(t *testing.T, ns string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + ns)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestPodLifecycle goes through a pod's states as kubelet sees them.
func TestPodLifecycle(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		before := time.Now().UnixNano()
		p := e.runPod(handler)
		r, err := e.node.Runtime.PodSandboxStatus(e.Context(), p.id, true)
		e.must(err)
		s := r.Status
		equal(e, "state", s.State, runtimeapi.PodSandboxState_SANDBOX_READY)
		equal(e, "metadata", s.Metadata.String(), p.config.Metadata.String())
		equal(e, "handler", s.RuntimeHandler, handler)
		equal(e, "labels", fmt.Sprint(s.Labels), fmt.Sprint(p.config.Labels))
		equal(e, "annotations", fmt.Sprint(s.Annotations), fmt.Sprint(p.config.Annotations))
		equal(e, "network mode", s.Linux.GetNamespaces().GetOptions().GetNetwork(), runtimeapi.NamespaceMode_POD)
		if s.CreatedAt < before || s.CreatedAt > time.Now().UnixNano() {
			e.Errorf("created at %d", s.CreatedAt)
		}
		if s.Network.GetIp() == "" {
			e.Error("no address")
		}
		if len(r.Info) == 0 {
			e.Error("verbose status has no info")
		}
		c := e.start(p, "c", []string{"sleep", "1000"})
		e.must(e.node.Runtime.StopPodSandbox(e.Context(), p.id))
		equal(e, "container after stop", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_EXITED)
		r, err = e.node.Runtime.PodSandboxStatus(e.Context(), p.id, false)
		e.must(err)
		equal(e, "state after stop", r.Status.State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
		config := kubelet.Container{Name: "late", Image: shared.image, Command: []string{"true"}}.Config(p.config)
		if _, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config); err == nil {
			e.Error("created a container in a stopped pod")
		}
	})
}

// TestPodNamespaces checks every namespace mode against the host's.
func TestPodNamespaces(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		for _, tc := range []struct {
			name, ns string
			edit     func(o *runtimeapi.NamespaceOption)
			shared   bool // with the host
		}{
			{"network pod", "net", func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_POD }, false},
			{"network node", "net", func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_NODE }, true},
			{"uts of network node", "uts", func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_NODE }, true},
			{"uts of network pod", "uts", func(*runtimeapi.NamespaceOption) {}, false},
			{"ipc pod", "ipc", func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_POD }, false},
			{"ipc node", "ipc", func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_NODE }, true},
			{"pid container", "pid", func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_CONTAINER }, false},
			{"pid pod", "pid", func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_POD }, false},
			{"pid node", "pid", func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE }, true},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { tc.edit(options(c)) })
				same := func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = options(p.config) }
				// Both at a time: the number of a namespace that has gone is used again.
				var links []string
				for _, name := range []string{"a", "b"} {
					c := e.start(p, name, []string{"sleep", "1000"}, same)
					links = append(links, e.exec(c.id, "readlink", "/proc/self/ns/"+tc.ns))
				}
				equal(e, "shared with the host", strings.TrimSpace(links[0]) == hostLink(t, tc.ns), tc.shared)
				equal(e, "shared by the containers", links[0] == links[1], tc.name != "pid container")
			})
		}
	})
}

// TestPodSharedPID has an init of ours that reaps, and whose end is the pod's.
func TestPodSharedPID(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { options(c).Pid = runtimeapi.NamespaceMode_POD })
		inPod := inNamespaces(p, runtimeapi.NamespaceMode_POD, "")
		a := e.start(p, "a", []string{"probe", "trap", "-ignore"}, inPod)
		b := e.start(p, "b", []string{"sh", "-c", "(sleep 0.2 &) ; exec sleep 1000"}, inPod)
		if init := e.exec(b.id, "cat", "/proc/1/cmdline"); strings.Contains(init, "probe") || strings.Contains(init, "sleep") {
			e.Errorf("process 1 is %q", init)
		}
		contains(e, "processes seen from b", e.exec(b.id, "ps"), "probe trap")
		// The orphan of b is reaped.
		e.eventually(5*time.Second, func() error {
			if out := e.exec(b.id, "ps", "-o", "stat,args"); strings.Contains(out, "Z") {
				return fmt.Errorf("zombies: %s", out)
			}
			return nil
		})
		list, err := e.node.Runtime.ListContainers(e.Context(), &runtimeapi.ContainerFilter{PodSandboxId: p.id})
		e.must(err)
		equal(e, "containers in the list", len(list), 2)
		e.must(e.node.Runtime.StopContainer(e.Context(), a.id, 0))
		equal(e, "exit code of a killed container", e.status(a.id).ExitCode, 137)
		equal(e, "the other container", e.status(b.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	})
}

// TestPodTargetPID joins the pid namespace of another container.
func TestPodTargetPID(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		target := e.start(p, "target", []string{"probe", "trap"})
		debug := e.sh(p, "debug", "ps", inNamespaces(p, runtimeapi.NamespaceMode_TARGET, target.id))
		contains(e, "processes", debug.stdout, "probe trap")
		config := kubelet.Container{Name: "lost", Image: shared.image, Command: []string{"ps"}}.Config(p.config)
		inNamespaces(p, runtimeapi.NamespaceMode_TARGET, strings.Repeat("0", 64))(config)
		if id, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config); err == nil {
			e.Errorf("container %s joins a container that is not there", id)
		}
	})
}

// TestPodSparse runs what the CRI test suite sends: nothing but metadata.
func TestPodSparse(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		config := kubelet.SparsePod("sparse")
		p := e.runPodConfig(handler, config)
		id, err := e.node.Runtime.CreateContainer(e.Context(), p.id, kubelet.SparseContainer("c", shared.image, "top"), config)
		e.must(err)
		e.must(e.node.Runtime.StartContainer(e.Context(), id))
		// A nil pid mode is POD.
		if init := e.exec(id, "cat", "/proc/1/cmdline"); strings.HasPrefix(init, "top") {
			e.Errorf("process 1 is %q", init)
		}
		contains(e, "resolv.conf", e.exec(id, "cat", "/etc/resolv.conf"), "nameserver")
		if e.exec(id, "hostname") == "\n" {
			e.Error("no hostname")
		}
		e.must(e.node.Runtime.StopContainer(e.Context(), id, 5))
		e.must(e.node.Runtime.RemoveContainer(e.Context(), id))
	})
}

// TestPodFiles checks what the pod brings into each container.
func TestPodFiles(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) {
			c.Hostname = "my-host.sub.e2e.svc." // setHostnameAsFQDN in a cluster without a domain
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.0.0.53", "fd00::53"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:3", "edns0"}}
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net/ipv4/tcp_keepalive_time": "77", "fs.mqueue.msg_max": "100"}
		})
		c := e.start(p, "c", []string{"sleep", "1000"})
		equal(e, "hostname", e.exec(c.id, "hostname"), "my-host.sub.e2e.svc.\n")
		equal(e, "/etc/hostname", e.exec(c.id, "cat", "/etc/hostname"), "my-host.sub.e2e.svc.\n")
		contains(e, "/etc/hosts", e.exec(c.id, "cat", "/etc/hosts"), "127.0.0.1", "localhost")
		contains(e, "/etc/resolv.conf", e.exec(c.id, "cat", "/etc/resolv.conf"),
			"nameserver 10.0.0.53\n", "nameserver fd00::53\n", "search a.test b.test\n", "options ndots:3 edns0\n")
		for path, want := range map[string]string{
			"kernel/shm_rmid_forced": "1\n", "net/ipv4/tcp_keepalive_time": "77\n", "fs/mqueue/msg_max": "100\n",
			"net/ipv4/ip_unprivileged_port_start": "0\n",
		} {
			equal(e, path, e.exec(c.id, "cat", "/proc/sys/"+path), want)
		}
		contains(e, "mount of /dev/shm", e.exec(c.id, "grep", " /dev/shm ", "/proc/self/mountinfo"), "tmpfs", "nosuid", "nodev", "noexec", "size=65536k")
		d := e.start(p, "d", []string{"sleep", "1000"})
		e.exec(c.id, "touch", "/dev/shm/shared")
		e.exec(d.id, "ls", "/dev/shm/shared")
	})
}

// TestPodCgroupParent puts the container below the parent, in a cgroup whose
// name ends in its id; the parent is created where it is absent.
func TestPodCgroupParent(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		inside, err := usage.InCgroup(p.config.Linux.CgroupParent)
		e.must(err)
		if len(inside) != 1 {
			e.Fatalf("%d processes below the parent: %v", len(inside), inside)
		}
		for _, g := range inside[0].Cgroups {
			// In a scope of systemd crun makes a cgroup of its own.
			scope := strings.TrimSuffix(strings.TrimSuffix(g, "/container"), ".scope")
			if strings.HasPrefix(g, p.config.Linux.CgroupParent) && !strings.HasSuffix(scope, c.id) {
				e.Errorf("cgroup %q does not end in the id", g)
			}
		}
		// Without a parent the configured one is used.
		q := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "" })
		d := e.start(q, "d", []string{"sleep", "1000"})
		all, err := usage.InCgroup(e.node.CgroupParent)
		e.must(err)
		found := false
		for _, p := range all {
			found = found || strings.Contains(strings.Join(p.Cgroups, " "), d.id)
		}
		equal(e, "container below the configured root", found, true)
		e.removePod(p)
		e.forgotten(path.Base(p.config.Linux.CgroupParent))
	})
}

// forgotten waits until systemd has no such slice: who brings one about, as
// the daemon does here in kubelet's place, takes it away again.
func (e *env) forgotten(slice string) {
	e.Helper()
	if !node.Systemd() {
		return
	}
	e.eventually(10*time.Second, func() error {
		out, err := exec.CommandContext(e.Context(), "systemctl", "show", "--property=ActiveState", "--value", slice).Output()
		if state := strings.TrimSpace(string(out)); err == nil && state != "inactive" {
			err = fmt.Errorf("slice %s is %s", slice, state)
		}
		return err
	})
}

// TestPodHostNetwork has no address and leaves the host's alone.
func TestPodHostNetwork(t *testing.T) {
	e := onShared(t)
	config := kubelet.Pod{
		Name: podName(t), LogDirectory: filepath.Join(e.node.Logs, podName(t)), CgroupParent: e.node.CgroupParent, HostNetwork: true,
		Ports: []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 12345}},
	}.Config()
	p := e.runPodConfig("", config)
	r, err := e.node.Runtime.PodSandboxStatus(e.Context(), p.id, false)
	e.must(err)
	equal(e, "address", r.Status.Network.GetIp(), "")
	host, err := os.Hostname()
	e.must(err)
	c := e.start(p, "c", []string{"sleep", "1000"})
	equal(e, "hostname", e.exec(c.id, "hostname"), host+"\n")
	contains(e, "interfaces", e.exec(c.id, "cat", "/proc/net/dev"), e.node.Bridge)
}

// TestPodRestartedWithNextAttempt is what kubelet does after a pod has failed.
func TestPodRestartedWithNextAttempt(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	next := e.node.Pod("x").Config()
	next.Metadata = &runtimeapi.PodSandboxMetadata{Name: p.config.Metadata.Name, Namespace: p.config.Metadata.Namespace, Uid: p.config.Metadata.Uid, Attempt: 1}
	q := e.runPodConfig("", next)
	if p.id == q.id {
		t.Error("the next attempt is the same pod")
	}
}

// TestPodStoppedFreesNetwork before it answers.
func TestPodStoppedFreesNetwork(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), p.id))
	facts, err := invariant.Collect(e.node.InvariantConfig())
	e.must(err)
	for _, f := range facts {
		if f.Kind == invariant.Lease || f.Kind == invariant.Rule {
			t.Errorf("after StopPodSandbox there is %s", f)
		}
	}
}
