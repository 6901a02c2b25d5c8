package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// The ids of a pod with a user namespace.
const (
	firstUID, firstGID = 1 << 20, 1<<20 + 1<<17
	mappedIDs          = 1 << 16
)

func idMappings() (uids, gids []*runtimeapi.IDMapping) {
	return []*runtimeapi.IDMapping{{HostId: firstUID, Length: mappedIDs}}, []*runtimeapi.IDMapping{{HostId: firstGID, Length: mappedIDs}}
}

// mapped gives a pod a user namespace.
func mapped(c *runtimeapi.PodSandboxConfig) {
	uids, gids := idMappings()
	options(c).UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: uids, Gids: gids}
}

// ofPod gives a container the namespaces of its pod, as kubelet does.
func ofPod(p *pod) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = proto.CloneOf(options(p.config))
	}
}

// withUserNS runs a test with each handler that can do it, and lets one that
// says it cannot refuse.
func withUserNS(t *testing.T, test func(e *env, handler string)) {
	eachHandler(t, func(e *env, handler string) {
		if handlerFeatures(e, handler).GetUserNamespaces() {
			test(e, handler)
			return
		}
		if handler == "runc" {
			lacking(e.T, "userns", "runc or the kernel has no ID-mapped mounts")
		}
		config := e.node.Pod(podName(e.T)).Config()
		mapped(config)
		if _, err := e.node.Runtime.RunPodSandbox(e.Context(), config, handler); err == nil || !strings.Contains(err.Error(), "userns_options") {
			e.Errorf("error is %v", err)
		}
	})
}

func handlerFeatures(e *env, handler string) *runtimeapi.RuntimeHandlerFeatures {
	e.Helper()
	status, err := e.node.Runtime.Status(e.Context(), false)
	e.must(err)
	for _, h := range status.RuntimeHandlers {
		if h.Name == handler {
			return h.Features
		}
	}
	e.Fatalf("no handler %q in the status", handler)
	return nil
}

// owner is who a file of the host belongs to.
func owner(e *env, path string) string {
	e.Helper()
	info, err := os.Lstat(path)
	e.must(err)
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		e.Fatalf("no owner of %s", path)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// TestUserNamespace looks at a pod with one from the inside and the outside.
func TestUserNamespace(t *testing.T) {
	withUserNS(t, func(e *env, handler string) {
		p := e.runPod(handler, mapped, func(c *runtimeapi.PodSandboxConfig) {
			c.Hostname = "mapped"
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.tcp_keepalive_time": "77"}
		})
		r, err := e.node.Runtime.PodSandboxStatus(e.Context(), p.id, false)
		e.must(err)
		if got := r.Status.Linux.Namespaces.Options.UsernsOptions; !proto.Equal(got, options(p.config).UsernsOptions) {
			e.Errorf("status has %v", got)
		}
		a := e.start(p, "a", []string{"sleep", "1000"}, ofPod(p))
		b := e.start(p, "b", []string{"sleep", "1000"}, ofPod(p), asUser(1000))
		want := fmt.Sprintf("0 %d %d 0 %d %d", firstUID, mappedIDs, firstGID, mappedIDs)
		for _, c := range []*container{a, b} {
			got := e.exec(c.id, "cat", "/proc/self/uid_map", "/proc/self/gid_map")
			equal(e, "mappings", strings.Join(strings.Fields(got), " "), want)
		}
		for _, ns := range []string{"user", "net", "ipc", "uts"} {
			link := e.exec(a.id, "readlink", "/proc/self/ns/"+ns)
			equal(e, ns+" is shared in the pod", link, e.exec(b.id, "readlink", "/proc/self/ns/"+ns))
			if strings.TrimSpace(link) == hostLink(e.T, ns) {
				e.Errorf("%s is the host's", ns)
			}
		}
		equal(e, "owner of the process", owner(e, fmt.Sprintf("/proc/%d", e.process(a).PID)), fmt.Sprintf("%d:%d", firstUID, firstGID))
		equal(e, "owner of the user's process", owner(e, fmt.Sprintf("/proc/%d", e.process(b).PID)), fmt.Sprintf("%d:%d", firstUID+1000, firstGID+1000))
		equal(e, "hostname", strings.TrimSpace(e.exec(a.id, "hostname")), "mapped")
		equal(e, "sysctl of IPC", strings.TrimSpace(e.exec(a.id, "cat", "/proc/sys/kernel/shm_rmid_forced")), "1")
		equal(e, "sysctl of the network", strings.TrimSpace(e.exec(a.id, "cat", "/proc/sys/net/ipv4/tcp_keepalive_time")), "77")
		equal(e, "groups that may ping", strings.Join(strings.Fields(e.exec(a.id, "cat", "/proc/sys/net/ipv4/ping_group_range")), " "), fmt.Sprintf("0 %d", mappedIDs-1))
		contains(e, "lo", e.exec(a.id, "ip", "addr", "show", "lo"), "LOOPBACK,UP")
		for _, path := range []string{"/", "/bin/busybox", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/shm", "/dev/null", "/proc/1/status"} {
			got := strings.TrimSpace(e.exec(a.id, "stat", "-L", "-c", "%u:%g", path))
			if path == "/dev/null" {
				continue // the host's
			}
			equal(e, "owner of "+path, got, "0:0")
		}
		e.exec(a.id, "sh", "-c", "echo x > /written && chown 1000:1000 /written && echo x >> /etc/hosts && touch /dev/shm/s /dev/mqueue/q && echo > /dev/null")
		equal(e, "seen by the user", strings.TrimSpace(e.exec(b.id, "ls", "/dev/shm")), "s")
		uppers, err := filepath.Glob(filepath.Join(e.node.Root, "image/rootfs", a.id, "upper"))
		e.must(err)
		for _, upper := range uppers {
			equal(e, "owner on disk", owner(e, upper+"/written"), fmt.Sprintf("%d:%d", firstUID+1000, firstGID+1000))
			equal(e, "owner of the root on disk", owner(e, upper), fmt.Sprintf("%d:%d", firstUID, firstGID))
		}
		if len(uppers) != 1 {
			e.Errorf("no writable layer found")
		}
		equal(e, "setuid", e.exec(b.id, "suid-probe", "id"), "1000 0\n")
	})
}

// TestUserNamespaceMounts leaves one mount for each root file system, however
// many layers its image has, and maps volumes as it is told.
func TestUserNamespaceMounts(t *testing.T) {
	withUserNS(t, func(e *env, handler string) {
		dir := e.TempDir()
		for dir := dir; dir != os.TempDir(); dir = filepath.Dir(dir) {
			e.must(os.Chmod(dir, 0o755))
		}
		e.must(os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
		e.must(os.Chown(filepath.Join(dir, "file"), 1000, 1000))
		e.must(os.Chmod(dir, 0o777))
		var layers [][]image.File
		layers = append(layers, shared.busybox)
		for i := range 20 {
			layers = append(layers, []image.File{image.Text(fmt.Sprintf("etc/layer%d", i), "x")})
		}
		layers = append(layers, []image.File{image.Dir("data"), image.Text("data/f", "f")})
		ref, _ := e.push("e2e/layers-"+handler+":1", image.Spec{Layers: layers, Config: v1.Config{
			Volumes: map[string]struct{}{"/data": {}, "/none": {}}, WorkingDir: "/made/here",
		}})
		e.pull(ref)
		p := e.runPod(handler, mapped)
		before := countMounts(e)
		uids, gids := idMappings()
		c := e.start(p, "c", []string{"sleep", "1000"}, ofPod(p), mounting(
			&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mapped", UidMappings: uids, GidMappings: gids},
			&runtimeapi.Mount{HostPath: dir, ContainerPath: "/unmapped", Readonly: true},
		), func(c *runtimeapi.ContainerConfig) {
			c.Image = &runtimeapi.ImageSpec{Image: ref}
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/other", Permissions: "r"}}
		})
		equal(e, "mounts of a container", countMounts(e)-before, 1)
		for path, want := range map[string]string{
			"/mapped/file": "1000:1000", "/unmapped/file": "65534:65534",
			"/data": "0:0", "/data/f": "0:0", "/none": "0:0", "/made": "0:0", "/made/here": "0:0", "/etc/layer19": "0:0",
		} {
			equal(e, "owner of "+path, strings.TrimSpace(e.exec(c.id, "stat", "-c", "%u:%g", path)), want)
		}
		e.exec(c.id, "sh", "-c", "touch /mapped/new /data/new /none/new /made/here/new; head -c 3 /dev/other > /dev/null")
		equal(e, "owner of a new file", owner(e, dir+"/new"), "0:0")
		if got := e.status(c.id).Mounts; len(got) != 2 || len(got[0].UidMappings) != 1 {
			e.Errorf("status has mounts %v", got)
		}
		e.must(e.node.Runtime.RemoveContainer(e.Context(), c.id))
		e.removeImage(ref)
	})
}

// countMounts counts those of the node; the machine has others that change.
func countMounts(e *env) int {
	e.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	e.must(err)
	return strings.Count(string(b), " "+e.node.Dir+"/")
}

// TestUserNamespaceModes combines it with what else a pod can have.
func TestUserNamespaceModes(t *testing.T) {
	withUserNS(t, func(e *env, handler string) {
		script := "cat /proc/self/uid_map; ls /sys/class/net; cat /sys/devices/system/cpu/online; ls /sys/fs/cgroup > /dev/null && echo cgroup; mount -t tmpfs t /tmp && echo mounts"
		for _, tc := range []struct {
			name string
			edit func(*runtimeapi.PodSandboxConfig)
			more func(*runtimeapi.LinuxContainerSecurityContext)
			want []string
		}{
			{"shared pid", func(c *runtimeapi.PodSandboxConfig) { options(c).Pid = runtimeapi.NamespaceMode_POD }, nil, []string{"eth0"}},
			{"privileged", func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }, func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Privileged, s.MaskedPaths, s.ReadonlyPaths = true, nil, nil
			}, []string{"eth0", "mounts"}},
			{"host network", func(c *runtimeapi.PodSandboxConfig) { options(c).Network = runtimeapi.NamespaceMode_NODE }, nil, []string{e.node.Bridge, "0", "cgroup"}},
			{"read-only", func(*runtimeapi.PodSandboxConfig) {}, func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }, []string{"eth0"}},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				p := e.runPod(handler, mapped, tc.edit)
				r := e.sh(p, "c", script, ofPod(p), security(func(s *runtimeapi.LinuxContainerSecurityContext) {
					if tc.more != nil {
						tc.more(s)
					}
				}))
				contains(e, "stdout", r.stdout, append(tc.want, fmt.Sprint(firstUID), "cgroup")...)
				if tc.name == "host network" {
					e.sh(p, "w", "! touch /sys/kernel/x", ofPod(p))
				}
			})
		}
	})
}

// TestUserNamespaceRefused names the field of what cannot be.
func TestUserNamespaceRefused(t *testing.T) {
	e := onShared(t)
	if !handlerFeatures(e, "").GetUserNamespaces() {
		lacking(t, "userns", "the default handler has no user namespaces")
	}
	uids, gids := idMappings()
	p := e.runPod("", mapped)
	plain := e.runPodConfig("", e.node.Pod(podName(t)+"-plain").Config())
	for _, tc := range []struct {
		name  string
		pod   *pod
		edit  func(*runtimeapi.ContainerConfig)
		field string
	}{
		{"other mode", p, func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
		}, "userns_options"},
		{"other ids", p, func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids[0].HostId++
		}, "userns_options"},
		{"pod without", plain, func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = options(p.config).UsernsOptions
		}, "userns_options"},
		{"mount without", plain, mounting(&runtimeapi.Mount{HostPath: "/etc", ContainerPath: "/x", UidMappings: uids, GidMappings: gids}), "config.mounts[0].uidMappings"},
		{"mount half", p, mounting(&runtimeapi.Mount{HostPath: "/etc", ContainerPath: "/x", UidMappings: uids}), "config.mounts[0].gidMappings"},
		{"user that is not there", p, asUser(mappedIDs), "run_as_user"},
	} {
		config := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"true"}}.Config(tc.pod.config)
		ofPod(tc.pod)(config)
		tc.edit(config)
		_, err := e.node.Runtime.CreateContainer(t.Context(), tc.pod.id, config, tc.pod.config)
		if err == nil || !strings.Contains(err.Error(), tc.field) {
			t.Errorf("%s: error is %v", tc.name, err)
		}
	}
	for name, edit := range map[string]func(*runtimeapi.NamespaceOption){
		"two mappings":   func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids = append(uids, gids...) },
		"no root":        func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids[0].ContainerId = 1 },
		"mode CONTAINER": func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_CONTAINER },
		"mode TARGET":    func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_TARGET },
		"lengths":        func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids[0].Length-- },
		"host's pids":    func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE },
		"host's ipc":     func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_NODE },
	} {
		config := e.node.Pod("refused").Config()
		mapped(config)
		edit(options(config))
		if id, err := e.node.Runtime.RunPodSandbox(t.Context(), config, ""); err == nil {
			t.Errorf("%s: ran %s", name, id)
		}
	}
}

// TestUserNamespaceRestart keeps such pods over a daemon's death, and leaves
// nothing of them.
func TestUserNamespaceRestart(t *testing.T) {
	e := ownNode(t, node.Options{Number: 7})
	if !handlerFeatures(e, "").GetUserNamespaces() {
		lacking(t, "userns", "the default handler has no user namespaces")
	}
	p := e.runPod("", mapped)
	c := e.start(p, "c", []string{"sleep", "1000"}, ofPod(p))
	link := e.exec(c.id, "readlink", "/proc/self/ns/user")
	e.must(e.node.Kill())
	e.must(e.node.Restart(t.Context()))
	equal(e, "user namespace of an exec", e.exec(c.id, "readlink", "/proc/self/ns/user"), link)
	later := e.start(p, "later", []string{"sleep", "1000"}, ofPod(p))
	equal(e, "user namespace of a later container", e.exec(later.id, "readlink", "/proc/self/ns/user"), link)
	// A pod that has lost its user namespace is not ready any more.
	e.must(unix.Unmount(filepath.Join(e.node.State, "sandboxes", p.id, "userns"), unix.MNT_DETACH))
	e.must(e.node.Kill())
	e.must(e.node.Restart(t.Context()))
	r, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, false)
	e.must(err)
	equal(e, "state", r.Status.State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
}
