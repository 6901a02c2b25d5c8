package spec

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const testPasswd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
alice:x:1000:1000:Alice:/home/alice:/bin/sh
twin:x:1000:2000::/:/bin/sh
4294967296:x:0:0::/:/bin/sh
broken:x:0x10:0::/:/bin/sh
short:x
`

const testGroup = `root:x:0:
daemon:x:1:root
alice:x:1000:
staff:x:50000:bob,alice
odd:x:-1:alice
big:x:4294967296:alice
wheel:x:10:root
`

// writeFile writes a file below dir, with the directories it needs.
func writeFile(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// testRootfs is a root file system with accounts and nothing to run.
func testRootfs(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	writeFile(t, root, "etc/passwd", testPasswd)
	writeFile(t, root, "etc/group", testGroup)
	return root
}

// allCaps is what a machine with everything can give; tests must not depend on
// the one they run on.
func allCaps() []string { return slices.Clone(knownCapabilities()) }

// testInput is a container as kubelet asks for it, on a machine that has
// cgroup v2, and the smallest pod around it.
func testInput(t testing.TB) Input {
	t.Helper()
	return Input{
		ID: "c1", SandboxID: "s1",
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "web"},
			Image:    &runtimeapi.ImageSpec{Image: "sha256:abc"},
			Command:  []string{"/bin/sh", "-c", "true"},
			LogPath:  "web/0.log",
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources:       &runtimeapi.LinuxContainerResources{},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
			},
		},
		Sandbox: &runtimeapi.PodSandboxConfig{
			Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "uid-1"},
			LogDirectory: "/var/log/pods/default_pod_uid-1",
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			}},
		},
		Image:   &ocispec.Image{Config: ocispec.ImageConfig{Env: []string{"PATH=/bin"}}},
		ImageID: "sha256:abc",
		Rootfs:  testRootfs(t),
		Pod: Pod{
			NetNS: "/run/ns/net", IPCNS: "/run/ns/ipc", UTSNS: "/run/ns/uts", PIDNS: "/run/ns/pid",
			ResolvConf: "/run/pod/resolv.conf", Hosts: "/run/pod/hosts", Hostname: "/run/pod/hostname", Shm: "/run/pod/shm",
			HostnameValue: "pod", CgroupsPath: "/kubepods/pod1/c1",
		},
		Host: Host{
			CgroupV2: true, HugepageSizes: []string{"2MB"}, SwapAccounting: true, OOMScoreFloor: -1000,
			Capabilities: allCaps(),
		},
		Runtime: Runtime{OCIVersion: "1.2.0", RRO: true},
	}
}

// security returns the security context to change.
func (in *Input) security() *runtimeapi.LinuxContainerSecurityContext {
	return in.Config.Linux.SecurityContext
}

// privileged makes both the pod and the container so.
func (in *Input) privileged() {
	in.Pod.Privileged = true
	in.Sandbox.Linux.SecurityContext.Privileged = true
	in.security().Privileged = true
}

// namespaces sets the options of pod and container.
func (in *Input) namespaces(o *runtimeapi.NamespaceOption) {
	in.Sandbox.Linux.SecurityContext.NamespaceOptions = o
	in.security().NamespaceOptions = o
}

// build translates and fails the test on an error.
func build(t testing.TB, in Input) *Output {
	t.Helper()
	out, err := Container(t.Context(), in)
	if err != nil {
		t.Fatalf("Container: %v", err)
	}
	return out
}
