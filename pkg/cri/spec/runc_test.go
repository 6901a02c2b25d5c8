package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runcBinary finds a runc: the one that CRI_NODE_TEST_RUNC names, else in PATH.
func runcBinary(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("CRI_NODE_TEST_RUNC"); p != "" {
		return p
	}
	p, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("no runc in PATH nor in CRI_NODE_TEST_RUNC")
	}
	return p
}

// busyboxRootfs has a static busybox, its applets and accounts.
func busyboxRootfs(t *testing.T) string {
	t.Helper()
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("no busybox: %v", err)
	}
	root := testRootfs(t)
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), bb, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "id", "touch", "grep", "hostname", "ls", "mknod", "pwd", "ulimit"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// runnableInput is testInput on this machine: real capabilities and cgroups,
// the host's namespaces for what a pod would have pinned, real files.
func runnableInput(t *testing.T) Input {
	t.Helper()
	in := testInput(t)
	in.ID = fmt.Sprintf("spec-test-%d", os.Getpid())
	in.Rootfs = busyboxRootfs(t)
	in.VolumesDir = filepath.Join(t.TempDir(), "volumes")
	dir := t.TempDir()
	in.Pod = Pod{
		ResolvConf:  writeFile(t, dir, "resolv.conf", "nameserver 192.0.2.1\n"),
		Hosts:       writeFile(t, dir, "hosts", "127.0.0.1 localhost\n"),
		Hostname:    writeFile(t, dir, "hostname", "pod\n"),
		CgroupsPath: "/cri-node-spec-test/" + in.ID,
	}
	var st unix.Statfs_t
	in.Host = Host{CgroupV2: unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC}
	in.Runtime.OCIVersion = ""
	return in
}

// run runs a container to its end and returns what it wrote.
func run(t *testing.T, in Input, out *Output) string {
	t.Helper()
	bundle := t.TempDir()
	if err := PrepareVolumes(t.Context(), in.Rootfs, out.Volumes); err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(out.Spec)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, bundle, "config.json", string(doc))
	state := t.TempDir()
	binary := runcBinary(t)
	cmd := exec.CommandContext(t.Context(), binary, "--root", state, "run", "--bundle", bundle, in.ID)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Errorf("runc run: %v\n%s%s", err, stdout, stderr.String())
	}
	if leftover, err := exec.CommandContext(t.Context(), binary, "--root", state, "delete", "--force", in.ID).CombinedOutput(); err != nil {
		t.Logf("runc delete: %v: %s", err, leftover)
	}
	removeTestCgroups(t)
	return string(stdout) + stderr.String()
}

// removeTestCgroups removes the parent that the runtime made and leaves.
func removeTestCgroups(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*/cri-node-spec-test", "/sys/fs/cgroup/cri-node-spec-test", "/sys/fs/cgroup/*/*/*/cri-node-spec-test"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil {
				t.Logf("remove cgroup %s: %v", d, err)
			}
		}
	}
}

func TestRunc(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	own := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}
	tests := []struct {
		name   string
		change func(t *testing.T, in *Input)
		script string
		want   []string
	}{
		{
			name: "unprivileged",
			change: func(_ *testing.T, in *Input) {
				in.security().Seccomp = &runtimeapi.SecurityProfile{}
				in.security().NoNewPrivs = true
				in.security().MaskedPaths = []string{"/proc/kcore", "/proc/not/there"}
				in.security().ReadonlyPaths = []string{"/proc/sys", "/not/there"}
				in.Config.WorkingDir = "/made/for/me"
				in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500}
				in.Defaults.PidsLimit = 64
			},
			script: "pwd; id -G; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; cat /proc/self/oom_score_adj /etc/resolv.conf; touch /sys/x /proc/sys/x; mknod /x c 1 3; ls /proc | grep -c '^[0-9]'; echo $HOSTNAME",
			want:   []string{"/made/for/me\n", "0 1 10\n", "NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t00000000000005fb", "CapInh:\t0000000000000000", "\n500\n", "nameserver 192.0.2.1", "Read-only file system", "Operation not permitted"},
		},
		{
			name: "privileged",
			change: func(_ *testing.T, in *Input) {
				in.privileged()
				in.security().Seccomp = &runtimeapi.SecurityProfile{}
			},
			script: "grep -E '^(CapEff|Seccomp:)' /proc/self/status; ls /dev; grep ' /sys ' /proc/mounts",
			want:   []string{"Seccomp:\t0", "urandom", "sysfs /sys sysfs rw"},
		},
		{
			name: "user",
			change: func(_ *testing.T, in *Input) {
				in.security().RunAsUsername = "alice"
				in.security().SupplementalGroups = []int64{1234}
				in.security().ReadonlyRootfs = true
				in.security().Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
			},
			script: "id -u; id -G; grep CapAmb /proc/self/status; touch /x; touch /etc/hosts",
			want:   []string{"1000\n1000 1234 50000\n", "CapAmb:\t0000000000000400", "/x: Read-only file system", "/etc/hosts: "},
		},
		{
			name: "mounts",
			change: func(t *testing.T, in *Input) {
				in.VolumesDir = t.TempDir()
				in.Image.Config.Volumes = map[string]struct{}{"/data": {}}
				writeFile(t, in.Rootfs, "data/seed", "from image\n")
				dir := t.TempDir()
				writeFile(t, dir, "f", "from host\n")
				in.Config.Mounts = []*runtimeapi.Mount{
					{ContainerPath: "/a/b", HostPath: filepath.Join(dir, "made/later")},
					{ContainerPath: "/a", HostPath: dir},
					{ContainerPath: "/ro", HostPath: dir, Readonly: true, MountOptions: []string{"noexec"}},
					{ContainerPath: "/rro", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
				}
				in.Config.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/mine", Permissions: "rw"}}
			},
			script: "cat /a/f /data/seed; touch /a/b/ok && echo wrote; touch /ro/x; touch /rro/x; echo x >/dev/mine && echo device",
			want:   []string{"from host\nfrom image\nwrote\n", "/ro/x: Read-only", "/rro/x: Read-only", "device\n"},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := runnableInput(t)
			in.namespaces(own)
			tc.change(t, &in)
			in.Config.Command = []string{"/bin/sh", "-c", tc.script + "; true"}
			got := run(t, in, build(t, in))
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("output lacks %q:\n%s", w, got)
				}
			}
		})
	}
}

// TestRuncExec runs what Process makes, and shows that the container's limits
// on the first process hold for it too.
func TestRuncExec(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	in := runnableInput(t)
	in.namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER})
	in.security().Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
	in.security().RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	in.Config.Command = []string{"/bin/cat"}
	in.Config.WorkingDir = "/work"
	out := build(t, in)

	bundle, state, binary := t.TempDir(), t.TempDir(), runcBinary(t)
	doc, err := json.Marshal(out.Spec)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, bundle, "config.json", string(doc))
	defer removeTestCgroups(t)
	init := exec.CommandContext(t.Context(), binary, "--root", state, "run", "--bundle", bundle, in.ID)
	stdin, err := init.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	// The echo tells that the first process runs.
	if _, err := io.WriteString(stdin, "up\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 3)); err != nil {
		t.Error(err)
	}
	p, err := Process(out.Spec.Process, []string{"/bin/sh", "-c", "id -u; pwd; grep CapBnd /proc/self/status"}, WithoutTerminal)
	if err != nil {
		t.Fatal(err)
	}
	doc, err = json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, bundle, "process.json", string(doc))
	got, err := exec.CommandContext(t.Context(), binary, "--root", state, "exec", "--process", file, in.ID).CombinedOutput()
	if want := "1000\n/work\nCapBnd:\t0000000000000000\n"; err != nil || string(got) != want {
		t.Errorf("exec: %v, wrote %q, want %q", err, got, want)
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := init.Wait(); err != nil {
		t.Errorf("runc run: %v", err)
	}
}
