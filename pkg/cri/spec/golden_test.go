package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// goldenCases are containers that clients really ask for.
var goldenCases = []struct {
	name   string
	change func(t *testing.T, in *Input)
}{
	{"kubelet-default", func(t *testing.T, in *Input) {
		in.Config.Envs = []*runtimeapi.KeyValue{{Key: "KUBERNETES_PORT", Value: []byte("tcp://10.0.0.1:443")}}
		in.Config.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/dev/termination-log", HostPath: writeFile(t, in.Rootfs, "../volumes/log", "")},
			{ContainerPath: "/etc/hosts", HostPath: writeFile(t, in.Rootfs, "../volumes/hosts", "")},
			{ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", HostPath: filepath.Dir(writeFile(t, in.Rootfs, "../volumes/token/token", "")), Readonly: true},
		}
		in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{
			CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 128 << 20, MemorySwapLimitInBytes: 128 << 20,
			OomScoreAdj: 985, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB"}},
			Unified: map[string]string{"memory.high": "max"},
		}
		sc := in.security()
		sc.MaskedPaths = []string{"/proc/asound", "/proc/interrupts"}
		sc.ReadonlyPaths = []string{"/proc/sys"}
		sc.Seccomp = &runtimeapi.SecurityProfile{}
		in.Defaults.PidsLimit = 4096
	}},
	{"critest-minimal", func(_ *testing.T, in *Input) {
		in.Config.Linux = nil
		in.Sandbox.Linux = nil
		in.Sandbox.LogDirectory = ""
	}},
	{"privileged", func(t *testing.T, in *Input) {
		in.privileged()
		in.security().Seccomp = &runtimeapi.SecurityProfile{}
		in.security().MaskedPaths = []string{"/proc/asound"}
		in.Host.DevDir = testDevices(t)
	}},
	{"host-everything", func(_ *testing.T, in *Input) {
		in.namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE})
		in.Pod.NetNS, in.Pod.IPCNS, in.Pod.UTSNS, in.Pod.Shm = "", "", "", ""
	}},
	{"shared-pid", func(_ *testing.T, in *Input) {
		in.namespaces(&runtimeapi.NamespaceOption{})
	}},
	{"target-pid", func(_ *testing.T, in *Input) {
		in.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "c0"}
		in.Pod.TargetPIDNS = "/proc/77/ns/pid"
	}},
	{"tty", func(_ *testing.T, in *Input) {
		in.Config.Tty, in.Config.Stdin = true, true
	}},
	{"cgroup-v1", func(_ *testing.T, in *Input) {
		in.Host.CgroupV2, in.Host.SwapAccounting, in.Host.HugepageSizes, in.Host.OOMScoreFloor = false, false, nil, 0
		in.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{
			CpuShares: 2, CpuQuota: -1, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20, OomScoreAdj: -997, CpusetCpus: "0-1",
		}
	}},
	{"readonly-user", func(_ *testing.T, in *Input) {
		sc := in.security()
		sc.ReadonlyRootfs, sc.NoNewPrivs = true, true
		sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 3000}
		sc.SupplementalGroups = []int64{1234}
		sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
	}},
	{"image-config", func(_ *testing.T, in *Input) {
		in.Config.Command, in.Config.Args = nil, []string{"serve"}
		in.VolumesDir = "/run/c1/volumes"
		in.Image = &ocispec.Image{Config: ocispec.ImageConfig{
			User: "alice:staff", Env: []string{"A=image", "HOSTNAME=mine", "B=2"}, Entrypoint: []string{"/app"}, Cmd: []string{"--help"},
			WorkingDir: "/srv/app", StopSignal: "SIGRTMIN+3", Labels: map[string]string{"org.systemd.property.ExecStartPre": "x"},
			Volumes: map[string]struct{}{"/data": {}, "/var/lib/x/": {}, "/sys/fs/cgroup": {}},
		}}
		in.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("request")}}
		in.Defaults.Env = []string{"A=operator", "B=operator"}
		in.Config.Annotations = map[string]string{"run.oci.handler": "krun"}
	}},
	{"device", func(t *testing.T, in *Input) {
		in.Config.Devices = []*runtimeapi.Device{{HostPath: filepath.Join(testDevices(t), "null"), ContainerPath: "/dev/mine", Permissions: "rw"}}
	}},
	{"host-dev", func(t *testing.T, in *Input) {
		in.privileged()
		in.Host.DevDir = testDevices(t)
		in.Config.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/dev", HostPath: "/dev"}, {ContainerPath: "/sys", HostPath: "/sys", RecursiveReadOnly: true, Readonly: true},
		}
	}},
	{"ambient", func(_ *testing.T, in *Input) {
		in.security().Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"net_raw"}}
		in.security().RunAsUsername = "alice"
		in.security().SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	}},
}

// testDevices is a directory with the nodes of /dev/null, below that of
// /dev/zero, and things that are no devices of the machine.
func testDevices(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, "shm/file", "")
	writeFile(t, dir, "plain", "")
	writeFile(t, dir, "sub/plain", "")
	for name, minor := range map[string]uint32{"null": 3, "sub/zero": 5, "ptmx": 2, "console": 1} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Skipf("make a device node: %v", err)
		}
	}
	if err := os.Symlink("null", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestGolden(t *testing.T) {
	oldMask := unix.Umask(0o022)
	defer unix.Umask(oldMask)
	for _, tc := range goldenCases {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			root := t.TempDir()
			in.Rootfs = filepath.Join(root, "rootfs")
			writeFile(t, in.Rootfs, "etc/passwd", testPasswd)
			writeFile(t, in.Rootfs, "etc/group", testGroup)
			tc.change(t, &in)
			out := build(t, in)
			got := strings.ReplaceAll(render(t, out), root, "/test")

			path := filepath.Join("testdata", "golden", tc.name+".json")
			if *update {
				writeFile(t, ".", path, got)
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("spec differs from %s (-want +got); run with -update if that is meant:\n%s", path, diff)
			}
		})
	}
}

// render shows all of an output but the syscalls of the seccomp profile, which
// are the profile's business and change with kernel and architecture.
func render(t *testing.T, out *Output) string {
	t.Helper()
	if s := out.Spec.Linux.Seccomp; s != nil {
		if len(s.Syscalls) < 5 {
			t.Errorf("seccomp filter has only %d rules", len(s.Syscalls))
		}
		out.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: s.DefaultAction}
	}
	doc, err := json.MarshalIndent(map[string]any{
		"spec": out.Spec, "user": out.User, "stopSignal": out.StopSignal.Name(), "logPath": out.LogPath,
		"resources": out.Resources, "volumes": out.Volumes, "warnings": out.Warnings,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(doc) + "\n"
}
