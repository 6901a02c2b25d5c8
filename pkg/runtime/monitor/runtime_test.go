package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

const unifiedCgroup = "/sys/fs/cgroup/unified"

// ociBundle makes a bundle around a static busybox.
func ociBundle(t *testing.T, dir, version string, tty bool, script string) string {
	t.Helper()
	busybox := lookFor(t, "busybox")
	bundle := filepath.Join(dir, "bundle")
	for _, d := range []string{"bin", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(bundle, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/bin/sh"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := map[string]any{
		"ociVersion": version,
		"process": map[string]any{
			"terminal": tty, "cwd": "/", "args": []string{"/bin/sh", "-c", script},
			"env": []string{"PATH=/bin"}, "user": map[string]any{"uid": 1000, "gid": 1000},
		},
		"root": map[string]any{"path": "rootfs"},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666"}},
		},
		"linux": map[string]any{
			"cgroupsPath": "/cri-node-monitor-test/" + filepath.Base(dir),
			"namespaces":  []map[string]any{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}},
			"resources":   map[string]any{"memory": map[string]any{"limit": 32 << 20}},
		},
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return bundle
}

type ociRuntime struct {
	name, path, version string
	hide                bool
}

func ociRuntimes(t *testing.T) []ociRuntime {
	var found []ociRuntime
	for _, r := range []ociRuntime{
		{"runc", os.Getenv("CRI_NODE_TEST_RUNC"), "1.0.2", false}, {"runc", "runc", "1.0.2", false},
		{"crun", "crun", "1.0.2", exists(unifiedCgroup)},
	} {
		path, err := exec.LookPath(r.path)
		if err == nil && (len(found) == 0 || found[0].name != r.name) {
			r.path = path
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		t.Skip("no OCI runtime on this machine")
	}
	return found
}

// ociRequest makes a request for a real runtime, and cleans up after it.
func (n *node) ociRequest(t *testing.T, r ociRuntime, id, script string, tty bool) CreateRequest {
	req := n.request(id, "")
	bundle := ociBundle(t, req.Dir, r.version, tty, script)
	req.RuntimeLog = filepath.Join(req.Dir, "runtime.log")
	req.HideUnifiedCgroup, req.TTY = r.hide, tty
	root := filepath.Join(n.dir, "oci")
	req.Argv = []string{r.path, "--root", root, "--log", req.RuntimeLog, "--log-format", "json", "create", "--bundle", bundle, "--pid-file", req.PidFile, id}
	t.Cleanup(func() {
		out, err := exec.Command(r.path, "--root", root, "delete", "--force", id).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "does not exist") {
			t.Logf("delete: %v: %s", err, out)
		}
		removeTestCgroups()
	})
	return req
}

// removeTestCgroups removes what deleting a container leaves: its parent.
func removeTestCgroups() {
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/cri-node-monitor-test")
	for _, parent := range append(parents, "/sys/fs/cgroup/cri-node-monitor-test") {
		children, _ := filepath.Glob(parent + "/*")
		for _, child := range children {
			_ = unix.Rmdir(child)
		}
		_ = unix.Rmdir(parent)
	}
}

func (n *node) ociStart(t *testing.T, r ociRuntime, id string) {
	t.Helper()
	out, err := exec.Command(r.path, "--root", filepath.Join(n.dir, "oci"), "start", id).CombinedOutput()
	if err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
}

func TestOCIRuntimes(t *testing.T) {
	for _, r := range ociRuntimes(t) {
		t.Run(r.name, func(t *testing.T) {
			n := startNode(t)
			t.Run("pipes", func(t *testing.T) {
				req := n.ociRequest(t, r, "pipes", "echo out; echo err >&2; echo again > /dev/stdout; exit 21", false)
				result := n.create(req)
				if len(result.Cgroup.V1) == 0 && result.Cgroup.Unified == "" {
					t.Error("no cgroup")
				}
				n.killMonitor()
				n.ociStart(t, r, "pipes")
				if e := n.exit("pipes"); e.Code != 21 || e.OOMKilled || e.Lost {
					t.Errorf("exit is %+v", e)
				}
				log := readLog(t, req.LogPath)
				if output(log, "stdout") != "out\nagain\n" || output(log, "stderr") != "err\n" {
					t.Errorf("log is %+v", log)
				}
			})
			t.Run("terminal", func(t *testing.T) {
				req := n.ociRequest(t, r, "terminal", "tty -s; echo $?; exit 22", true)
				n.create(req)
				n.killMonitor()
				n.ociStart(t, r, "terminal")
				if e := n.exit("terminal"); e.Code != 22 {
					t.Errorf("exit is %+v", e)
				}
			})
			t.Run("killed before start", func(t *testing.T) {
				req := n.ociRequest(t, r, "unstarted", "exit 0", false)
				if err := n.create(req).Process.Signal(unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if e := n.exit("unstarted"); e.Code != 137 {
					t.Errorf("exit is %+v", e)
				}
			})
			t.Run("out of memory", func(t *testing.T) {
				req := n.ociRequest(t, r, "oom", "x=0123456789abcdef; while :; do x=$x$x; done", false)
				n.create(req)
				n.ociStart(t, r, "oom")
				if e := n.exit("oom"); !e.OOMKilled || e.Code != 137 {
					t.Errorf("exit is %+v", e)
				}
			})
			t.Run("bad bundle", func(t *testing.T) {
				req := n.ociRequest(t, r, "bad", "exit 0", false)
				if err := os.Remove(filepath.Join(req.Dir, "bundle", "config.json")); err != nil {
					t.Fatal(err)
				}
				_, err := n.s.Create(context.Background(), req)
				if err == nil || !strings.Contains(err.Error(), "config.json") {
					t.Errorf("error is %v", err)
				}
			})
		})
	}
}

// TestHideUnified: the runtime does not see the hierarchy, everybody else does
// and propagation is as it was.
func TestHideUnified(t *testing.T) {
	if mounted := isMounted(t, "self", unifiedCgroup); !mounted {
		t.Skip("the unified hierarchy is not mounted at " + unifiedCgroup)
	}
	n := startNode(t)
	for i := range 5 {
		id := fmt.Sprintf("h%d", i)
		req := n.request(id, "cat /proc/self/mountinfo; ls "+unifiedCgroup+" | wc -l")
		req.HideUnifiedCgroup = i%2 == 0
		n.create(req)
		n.exit(id)
		text := output(readLog(t, req.LogPath), "stdout")
		if hidden := !strings.Contains(text, " "+unifiedCgroup+" "); hidden != req.HideUnifiedCgroup {
			t.Errorf("%s: hidden is %v", id, hidden)
		}
		for _, process := range []string{"self", fmt.Sprint(n.s.PID())} {
			if !isMounted(t, process, unifiedCgroup) {
				t.Fatalf("the unified hierarchy is gone from process %s", process)
			}
		}
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/mnt", n.s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		if ns, err := os.Readlink(thread); err == nil && ns != home {
			t.Errorf("%s is in %s: it keeps the mounts of the past alive", thread, ns)
		}
	}
}

func isMounted(t *testing.T, process, path string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/" + process + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+path+" ")
}

// TestKillCgroup has an init leave children that ignore its death.
func TestKillCgroup(t *testing.T) {
	mounts, err := readCgroupMounts()
	if err != nil {
		t.Fatal(err)
	}
	parents := map[string]string{"v2": mounts.unified, "v1": mounts.v1["pids"]}
	for name, parent := range parents {
		t.Run(name, func(t *testing.T) {
			if parent == "" {
				t.Skip("no such hierarchy")
			}
			n := startNode(t)
			dir := filepath.Join(parent, "cri-node-monitor-test")
			below := filepath.Join(dir, "below")
			if err := os.MkdirAll(below, 0o755); err != nil {
				t.Skipf("cgroups cannot be made: %v", err)
			}
			t.Cleanup(removeTestCgroups)
			gate := filepath.Join(n.dir, "gate")
			script := fmt.Sprintf("echo $$ > %s/cgroup.procs; while [ ! -e %s ]; do sleep 0.01; done; sleep 1000 & (echo 0 > %s/cgroup.procs; exec sleep 1000) & sleep 0.1; exit 3", dir, gate, below)
			req := n.request("k", script)
			req.KillCgroupOnExit = true
			// Time for the init to move to its cgroup before the create is over.
			req.Argv = slices.Insert(req.Argv, 3, "--wait", "200ms")
			n.create(req)
			start := time.Now()
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if e := n.exit("k"); e.Code != 3 {
				t.Errorf("exit is %+v", e)
			}
			for _, d := range []string{dir, below} {
				pids, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
				if err != nil {
					t.Error(err)
				}
				for pid := range strings.FieldsSeq(string(pids)) {
					n, _ := strconv.Atoi(pid)
					if p, err := linux.FindProcess(n); err == nil && p.Alive() {
						t.Errorf("process %d is left in %s", n, d)
					}
				}
			}
			if d := time.Since(start); d > drainTime {
				t.Errorf("it took %v", d)
			}
		})
	}
}

func TestParseCgroupMounts(t *testing.T) {
	m, err := parseCgroupMounts(strings.NewReader(`25 22 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro
26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
28 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
29 25 0:26 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
`))
	if err != nil {
		t.Fatal(err)
	}
	if m.unified != "/sys/fs/cgroup/unified" || m.v1["cpu"] != "/sys/fs/cgroup/cpu,cpuacct" || m.v1["name=systemd"] != "/sys/fs/cgroup/systemd" || m.v1["memory"] != "" {
		t.Errorf("mounts are %+v", m)
	}
}

func TestIdleMonitorUsesNothing(t *testing.T) {
	n := startNode(t)
	for i := range 20 {
		n.create(n.request(fmt.Sprintf("s%d", i), "echo hi; exec sleep 1000"))
	}
	cpu := func() string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", n.s.PID()))
		if err != nil {
			t.Skip(err)
		}
		return strings.Fields(string(b))[0]
	}
	time.Sleep(time.Second) // garbage collection after the creates
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n.s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Pss:") || strings.HasPrefix(line, "Pss_Anon") {
			t.Log(strings.TrimSpace(line))
		}
	}
	before := cpu()
	time.Sleep(500 * time.Millisecond)
	t.Logf("CPU time before %s, after %s ns", before, cpu())
}
