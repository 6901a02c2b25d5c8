package spec

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzContainer feeds any request and image through the translation. Whatever
// comes out must have none but our annotations, must lead nowhere outside, and
// must have neither inheritable capabilities nor groups without the primary.
func FuzzContainer(f *testing.F) {
	base := f.TempDir()
	rootfs, host, outside, volumes := filepath.Join(base, "rootfs"), filepath.Join(base, "host"), filepath.Join(base, "outside"), filepath.Join(base, "volumes")
	writeFile(f, rootfs, "etc/passwd", testPasswd)
	writeFile(f, rootfs, "etc/group", testGroup)
	for _, d := range []string{host, outside} {
		must(f, os.MkdirAll(d, 0o755))
	}
	must(f, os.Symlink(outside, filepath.Join(rootfs, "link")))
	must(f, os.Symlink("../../../.."+outside, filepath.Join(rootfs, "up")))

	seed := testInput(f)
	image := ocispec.Image{Config: ocispec.ImageConfig{
		User: "alice:staff", Env: []string{"A=B"}, WorkingDir: "/link/x", StopSignal: "SIGRTMIN+3", Volumes: map[string]struct{}{"/up/v": {}},
		Labels: map[string]string{"org.systemd.property.ExecStartPre": "x"},
	}}
	add := func(cfg *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) {
		c, err := proto.Marshal(cfg)
		must(f, err)
		s, err := proto.Marshal(sandbox)
		must(f, err)
		i, err := json.Marshal(image)
		must(f, err)
		f.Add(c, s, i)
	}
	add(seed.Config, seed.Sandbox)
	seed.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"CHOWN"}, DropCapabilities: []string{"KILL"}}
	seed.security().RunAsUsername = "alice"
	seed.security().Seccomp = &runtimeapi.SecurityProfile{}
	seed.Config.Annotations = map[string]string{"run.oci.handler": "krun"}
	seed.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("x")}}
	seed.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/b", Readonly: true, RecursiveReadOnly: true}}
	seed.Config.Devices = []*runtimeapi.Device{{ContainerPath: "/a", HostPath: "/b"}}
	seed.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 2, Unified: map[string]string{"memory.max": "max"}, CpusetCpus: "0-1"}
	add(seed.Config, seed.Sandbox)

	f.Fuzz(func(t *testing.T, cfg, sandbox, imageJSON []byte) {
		in := Input{ID: "c", SandboxID: "s", ImageID: "sha256:1", Rootfs: rootfs, VolumesDir: volumes, Image: &ocispec.Image{}}
		in.Config, in.Sandbox = &runtimeapi.ContainerConfig{}, &runtimeapi.PodSandboxConfig{}
		if proto.Unmarshal(cfg, in.Config) != nil || proto.Unmarshal(sandbox, in.Sandbox) != nil || json.Unmarshal(imageJSON, in.Image) != nil {
			return
		}
		// What a request may have of the machine is not the question, and must
		// not be made on the machine that fuzzes.
		for _, m := range in.Config.Mounts {
			m.HostPath = host + m.GetHostPath()
		}
		for _, d := range in.Config.Devices {
			d.HostPath = host + d.GetHostPath()
		}
		if sc := in.Config.GetLinux().GetSecurityContext(); sc != nil {
			if sc.Seccomp.GetLocalhostRef() != "" {
				sc.Seccomp.LocalhostRef = host + sc.Seccomp.LocalhostRef
			}
			if ref, ok := strings.CutPrefix(sc.SeccompProfilePath, localhostPrefix); ok {
				sc.SeccompProfilePath = localhostPrefix + host + ref
			}
		}
		in.Pod = Pod{PIDNS: "/p", TargetPIDNS: "/t", Shm: "/s", Hosts: "/h", Privileged: true}
		in.Host = Host{CgroupV2: true, OOMScoreFloor: -1000, Capabilities: allCaps(), DevDir: host}
		in.Runtime = Runtime{RRO: true}
		_ = ValidateSandbox(in.Sandbox)
		out, err := Container(t.Context(), in)
		if entries, readErr := os.ReadDir(outside); readErr != nil || len(entries) > 0 {
			t.Fatalf("made %v outside of the root, %v", entries, readErr)
		}
		if err != nil {
			if len(err.Error()) > 4096 || hasControl(err.Error()) {
				t.Fatalf("error is long or has control characters: %.500q", err)
			}
			return
		}
		checkSpec(t, out.Spec, []string{host, volumes, "/s", "/h", "/dev/shm"})
		// An image's volumes may be wrong, but not lead outside.
		if err := PrepareVolumes(t.Context(), rootfs, out.Volumes); err == nil {
			must(t, os.RemoveAll(volumes))
		}
	})
}

// checkSpec holds what is true of every spec.
func checkSpec(t *testing.T, s *specs.Spec, sources []string) {
	t.Helper()
	allowed := []string{
		annotationContainerType, annotationContainerName, annotationImageID, annotationSandboxID,
		annotationSandboxName, annotationSandboxNamespace, annotationSandboxUID,
	}
	for k := range s.Annotations {
		if !slices.Contains(allowed, k) {
			t.Errorf("annotation %q reaches the runtime", k)
		}
	}
	for i, m := range s.Mounts {
		if !filepath.IsAbs(m.Destination) || m.Destination == "/" || filepath.Clean(m.Destination) != m.Destination {
			t.Errorf("mount at %q", m.Destination)
		}
		if m.Type == "bind" && !slices.ContainsFunc(sources, func(root string) bool { return isAtOrBelow(m.Source, root) }) {
			t.Errorf("mount of %q", m.Source)
		}
		for _, later := range s.Mounts[i+1:] {
			if isAtOrBelow(m.Destination, later.Destination) {
				t.Errorf("%s is mounted before %s", m.Destination, later.Destination)
			}
		}
	}
	p := s.Process
	if !filepath.IsAbs(p.Cwd) || isKernelPath(p.Cwd) || hasDotDot(p.Cwd) {
		t.Errorf("cwd is %q", p.Cwd)
	}
	if len(p.Args) == 0 || p.OOMScoreAdj == nil {
		t.Errorf("arguments are %q, oom score is %v", p.Args, p.OOMScoreAdj)
	}
	if p.User.UID > math.MaxInt32 || p.User.GID > math.MaxInt32 || !slices.Contains(p.User.AdditionalGids, p.User.GID) {
		t.Errorf("user is %+v", p.User)
	}
	if !slices.Equal(p.Capabilities.Inheritable, p.Capabilities.Ambient) {
		t.Errorf("inheritable capabilities are %v", p.Capabilities.Inheritable)
	}
	if s.Hooks != nil || s.Hostname != "" {
		t.Error("hooks or a hostname")
	}
	if _, err := json.Marshal(s); err != nil {
		t.Error(err)
	}
}

// FuzzUser resolves any user in any account files: what a number parser could
// take for a number is that number or an error.
func FuzzUser(f *testing.F) {
	for _, u := range []string{"", "0", "1000:1000", "alice", "alice:staff", "4294967296", "-1", "0x0", " 0", "٠"} {
		f.Add([]byte(testPasswd), []byte(testGroup), u)
	}
	f.Fuzz(func(t *testing.T, passwd, group []byte, user string) {
		a, err := requestedAccount(nil, user)
		if err != nil {
			return
		}
		u, err := accounts{passwd: passwd, group: group}.resolve(a, nil)
		if err != nil {
			return
		}
		if u.UID > math.MaxInt32 || u.GID > math.MaxInt32 || !slices.Contains(u.Groups, u.GID) || !slices.IsSorted(u.Groups) {
			t.Errorf("user is %+v", u)
		}
		name, _, _ := strings.Cut(user, ":")
		trimmed := strings.TrimLeft(strings.TrimSpace(name), "+-")
		if trimmed == "" || trimmed[0] < '0' || trimmed[0] > '9' {
			return
		}
		if n, err := strconv.ParseInt(trimmed, 0, 64); err == nil && int64(u.UID) != n {
			t.Errorf("user %q became %d", name, u.UID)
		}
		if n, err := strconv.ParseFloat(trimmed, 64); err == nil && float64(u.UID) != n {
			t.Errorf("user %q became %d", name, u.UID)
		}
	})
}
