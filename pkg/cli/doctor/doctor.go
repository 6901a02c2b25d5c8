// Package doctor looks at a machine and says what stands in the way of running
// containers on it, and what to do about it. It works without a daemon: what
// keeps the daemon from starting is what people most want to know.
package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/client"
)

// Verdict of a finding.
type Verdict string

// The verdicts: all is well; it works, but something is missing; it cannot work.
const (
	Good Verdict = "ok"
	Odd  Verdict = "warning"
	Bad  Verdict = "problem"
)

// Finding is what one check found out.
type Finding struct {
	Verdict Verdict
	// About is what was looked at, Found what was seen, Advice what to do.
	About, Found, Advice string
}

// Host is what of the machine is looked at. Tests replace it.
type Host struct {
	// Root is "/", where files such as proc/filesystems are below.
	Root    string
	Release string
	UID     int
	// Free is how many bytes and inodes are free at a path, in percent.
	Free func(path string) (bytes, inodes int, err error)
	// Look finds a program.
	Look func(name string) (string, error)
	// Plugins are the directories CNI plugins may be in, Data is where images go.
	Plugins []string
	Data    string
}

// ThisHost is the machine the process runs on.
func ThisHost() Host {
	var name unix.Utsname
	_ = unix.Uname(&name) // an empty release is a finding
	return Host{
		Root: "/", Release: unix.ByteSliceToString(name.Release[:]), UID: os.Geteuid(), Free: free, Look: look,
		Plugins: append([]string{"/opt/cni/bin", "/usr/lib/cni"}, own("cni")...), Data: "/var/lib/cri-node",
	}
}

// own is where a build or an installation has what goes with this program: beside
// it, or below the prefix it is in.
func own(name string) []string {
	dirs := []string{"/usr/local/lib/cri-node"}
	if path, err := os.Executable(); err == nil {
		dir := filepath.Dir(path)
		dirs = append([]string{dir, filepath.Join(filepath.Dir(dir), "lib", "cri-node")}, dirs...)
	}
	for i, dir := range dirs {
		dirs[i] = filepath.Join(dir, name)
	}
	return dirs
}

func look(name string) (string, error) {
	for _, path := range own(name) {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

func free(path string) (bytes, inodes int, err error) {
	for {
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err == nil {
			percent := func(free, all uint64) int {
				if all == 0 {
					return 100
				}
				return int(free * 100 / all)
			}
			return percent(fs.Bavail, fs.Blocks), percent(fs.Ffree, fs.Files), nil
		} else if path == "/" {
			return 0, 0, fmt.Errorf("statfs %s: %w", path, err)
		}
		path = filepath.Dir(path) // it is made when the daemon starts
	}
}

// Examine makes all checks of the machine.
func (h Host) Examine() []Finding {
	var all []Finding
	for _, check := range []func() []Finding{
		h.user, h.kernel, h.filesystems, h.namespaces, h.cgroups, h.seccomp, h.lsm, h.runtimes, h.network, h.disk,
	} {
		all = append(all, check()...)
	}
	return all
}

func one(v Verdict, about, found, advice string) []Finding {
	if v == Good {
		advice = ""
	}
	return []Finding{{v, about, found, advice}}
}

func (h Host) read(name string) string {
	text, err := os.ReadFile(filepath.Join(h.Root, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (h Host) exists(name string) bool {
	_, err := os.Stat(filepath.Join(h.Root, name))
	return err == nil
}

func (h Host) user() []Finding {
	if h.UID != 0 {
		return one(Odd, "user", fmt.Sprintf("uid %d", h.UID), "the daemon must run as root; this command sees more as root, too")
	}
	return one(Good, "user", "root", "")
}

// The oldest kernels that are looked after, and that all features are there with.
const (
	oldestMajor, oldestMinor = 5, 10
	fullMajor, fullMinor     = 6, 3
)

func (h Host) kernel() []Finding {
	var major, minor int
	if _, err := fmt.Sscanf(h.Release, "%d.%d", &major, &minor); err != nil {
		return one(Odd, "kernel", h.Release, "its version cannot be read")
	}
	older := func(a, b int) bool { return major < a || major == a && minor < b }
	switch {
	case older(oldestMajor, oldestMinor):
		return one(Bad, "kernel", h.Release, fmt.Sprintf("it is older than %d.%d: install a newer one", oldestMajor, oldestMinor))
	case older(fullMajor, fullMinor):
		return one(Odd, "kernel", h.Release, fmt.Sprintf("pods with user namespaces need id-mapped tmpfs mounts, which came with %d.%d", fullMajor, fullMinor))
	}
	return one(Good, "kernel", h.Release, "")
}

func (h Host) filesystems() []Finding {
	known := h.read("proc/filesystems")
	for _, line := range strings.Split(known, "\n") {
		if strings.TrimSpace(strings.TrimPrefix(line, "nodev")) == "overlay" {
			return one(Good, "overlayfs", "there", "")
		}
	}
	return one(Bad, "overlayfs", "missing", "modprobe overlay, and put it into /etc/modules-load.d")
}

func (h Host) namespaces() []Finding {
	var missing []string
	for _, name := range []string{"mnt", "net", "ipc", "uts", "pid", "cgroup", "user"} {
		if !h.exists("proc/self/ns/" + name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return one(Bad, "namespaces", "missing: "+strings.Join(missing, ", "), "this kernel was built without them: install a distribution's own")
	}
	if h.read("proc/sys/user/max_user_namespaces") == "0" {
		return one(Odd, "namespaces", "user namespaces are switched off", "sysctl -w user.max_user_namespaces=15000, if pods are to have them")
	}
	return one(Good, "namespaces", "all there", "")
}

func (h Host) cgroups() []Finding {
	if h.exists("sys/fs/cgroup/cgroup.controllers") {
		have := strings.Fields(h.read("sys/fs/cgroup/cgroup.controllers"))
		var missing []string
		for _, want := range []string{"cpu", "memory", "pids", "io"} {
			found := false
			for _, c := range have {
				found = found || c == want
			}
			if !found {
				missing = append(missing, want)
			}
		}
		if len(missing) > 0 {
			return one(Odd, "cgroups", "v2 without "+strings.Join(missing, ", "), "limits of these are not kept: enable the controllers on the kernel's command line")
		}
		return one(Good, "cgroups", "v2", "")
	}
	if h.exists("sys/fs/cgroup/memory") && h.exists("sys/fs/cgroup/pids") {
		return one(Odd, "cgroups", "v1", "it works; Kubernetes is about to leave v1 behind: systemd.unified_cgroup_hierarchy=1 on the kernel's command line")
	}
	return one(Bad, "cgroups", "not mounted at /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup, which systemd does by itself")
}

func (h Host) seccomp() []Finding {
	if strings.Contains(h.read("proc/self/status"), "Seccomp:") {
		return one(Good, "seccomp", "there", "")
	}
	return one(Odd, "seccomp", "missing", "containers are less confined: this kernel was built without CONFIG_SECCOMP_FILTER")
}

func (h Host) lsm() []Finding {
	active := h.read("sys/kernel/security/lsm")
	switch {
	case strings.Contains(active, "apparmor"):
		if _, err := h.Look("apparmor_parser"); err != nil {
			return one(Odd, "security module", "AppArmor without apparmor_parser", "apt install apparmor: profiles cannot be loaded without it")
		}
		return one(Good, "security module", "AppArmor", "")
	case strings.Contains(active, "selinux"):
		return one(Good, "security module", "SELinux", "")
	}
	return one(Odd, "security module", "neither AppArmor nor SELinux", "containers have one wall less; distributions enable one of them by default")
}

func (h Host) runtimes() []Finding {
	var found []string
	for _, name := range []string{"runc", "crun"} {
		if path, err := h.Look(name); err == nil {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		return one(Bad, "OCI runtime", "none found", "apt install runc (or crun), or name one in [runtime.handlers] of the configuration")
	}
	return one(Good, "OCI runtime", strings.Join(found, ", "), "")
}

func (h Host) network() []Finding {
	var all []Finding
	if h.read("proc/sys/net/ipv4/ip_forward") == "0" {
		all = append(all, Finding{Odd, "forwarding", "net.ipv4.ip_forward is 0", "the network of pods sets it; with a network of your own: sysctl -w net.ipv4.ip_forward=1"})
	}
	found := ""
	for _, dir := range h.Plugins {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); dir != "" && err == nil {
			found = dir
		}
	}
	if found == "" {
		return append(all, Finding{Odd, "CNI plugins", "none in " + strings.Join(h.Plugins, ", "), "the network of one's own needs none; a conflist in /etc/cni/net.d does: apt install containernetworking-plugins"})
	}
	return append(all, Finding{Good, "CNI plugins", found, ""})
}

func (h Host) disk() []Finding {
	bytes, inodes, err := h.Free(h.Data)
	switch {
	case err != nil:
		return one(Odd, "disk", err.Error(), "look whether "+h.Data+" can be reached")
	case bytes < 5:
		return one(Bad, "disk", fmt.Sprintf("%d%% free for %s", bytes, h.Data), "cri-node system prune -a removes images that nothing uses")
	case bytes < 15:
		return one(Odd, "disk", fmt.Sprintf("%d%% free for %s", bytes, h.Data), "kubelet begins to remove images at 15%: cri-node system df shows what takes room")
	case inodes < 5:
		return one(Odd, "disk", fmt.Sprintf("%d%% of inodes free for %s", inodes, h.Data), "many small files: cri-node system prune")
	}
	return one(Good, "disk", fmt.Sprintf("%d%% free for %s", bytes, h.Data), "")
}

// patience is how long the daemon may take to answer.
const patience = 5 * time.Second

// Daemon asks the daemon how it is.
func Daemon(ctx context.Context, flags *client.Flags) []Finding {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all []Finding
	err := flags.With(ctx, func(ctx context.Context, n *client.Node) error {
		version, err := n.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
		if err != nil {
			return err
		}
		all = one(Good, "daemon", "version "+version.GetRuntimeVersion()+" answers", "")
		status, err := n.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			return err
		}
		for _, c := range status.GetStatus().GetConditions() {
			if c.GetStatus() {
				all = append(all, Finding{Good, c.GetType(), "yes", ""})
			} else {
				all = append(all, Finding{Bad, c.GetType(), c.GetReason(), c.GetMessage()})
			}
		}
		return nil
	})
	if err != nil {
		all = append(all, Finding{Bad, "daemon", "it does not answer", err.Error()})
	}
	return all
}
