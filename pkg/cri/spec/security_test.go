package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	runtimeDefault = runtimeapi.SecurityProfile_RuntimeDefault
	unconfined     = runtimeapi.SecurityProfile_Unconfined
	localhost      = runtimeapi.SecurityProfile_Localhost
)

func TestSeccomp(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string { return writeFile(t, dir, name, content) }
	oci := file("oci.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`)
	fifo := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	huge := file("huge.json", "")
	must(t, os.Truncate(huge, 1<<30))
	type profile = runtimeapi.SecurityProfile
	tests := []struct {
		name       string
		profile    *profile
		legacy     string
		byDefault  bool
		privileged bool
		want       specs.LinuxSeccompAction // empty: no filter
		err        string
	}{
		{name: "unset"},
		{name: "unset, default on", byDefault: true, want: specs.ActErrno},
		{name: "unconfined, default on", profile: &profile{ProfileType: unconfined}, byDefault: true},
		{name: "empty", profile: &profile{}, want: specs.ActErrno},
		{name: "legacy default", legacy: "runtime/default", want: specs.ActErrno},
		{name: "legacy docker", legacy: "docker/default", want: specs.ActErrno},
		{name: "legacy unconfined", legacy: "unconfined", byDefault: true},
		{name: "legacy localhost", legacy: "localhost/" + oci, want: specs.ActAllow},
		{name: "message over legacy", profile: &profile{ProfileType: unconfined}, legacy: "runtime/default"},
		{name: "localhost", profile: &profile{ProfileType: localhost, LocalhostRef: oci}, want: specs.ActAllow},
		{name: "privileged", profile: &profile{ProfileType: localhost, LocalhostRef: oci}, privileged: true},
		{name: "missing", profile: &profile{ProfileType: localhost, LocalhostRef: dir + "/none"}, err: "no such file"},
		{name: "fifo", profile: &profile{ProfileType: localhost, LocalhostRef: fifo}, err: "no regular file"},
		{name: "directory", profile: &profile{ProfileType: localhost, LocalhostRef: dir}, err: "no regular file"},
		{name: "huge", profile: &profile{ProfileType: localhost, LocalhostRef: huge}, err: "larger than"},
		{name: "no JSON", profile: &profile{ProfileType: localhost, LocalhostRef: file("text", "root:x:0:0")}, err: "is not JSON"},
		{name: "no profile", profile: &profile{ProfileType: localhost, LocalhostRef: file("empty.json", "{}")}, err: "no defaultAction"},
		{name: "null", profile: &profile{ProfileType: localhost, LocalhostRef: file("null.json", "null")}, err: "no defaultAction"},
		{name: "list", profile: &profile{ProfileType: localhost, LocalhostRef: file("list.json", "[]")}, err: "cannot unmarshal"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			if tc.privileged {
				in.privileged()
				in.Defaults.PrivilegedWithoutHostDevices = true
			}
			in.security().Seccomp, in.security().SeccompProfilePath = tc.profile, tc.legacy
			in.Defaults.SeccompRuntimeDefault = tc.byDefault
			out, err := Container(t.Context(), in)
			if tc.err != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
				return
			}
			must(t, err)
			var got specs.LinuxSeccompAction
			if s := out.Spec.Linux.Seccomp; s != nil {
				got = s.DefaultAction
			}
			if got != tc.want {
				t.Errorf("default action is %q, want %q", got, tc.want)
			}
		})
	}
}

// TestSeccompKnowsCapabilities shows that the default profile allows mount to
// those who have the capability for it.
func TestSeccompKnowsCapabilities(t *testing.T) {
	allows := func(add ...string) bool {
		in := testInput(t)
		in.security().Seccomp = &runtimeapi.SecurityProfile{}
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: add}
		return slices.ContainsFunc(build(t, in).Spec.Linux.Seccomp.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, "mount")
		})
	}
	if allows() || !allows("SYS_ADMIN") {
		t.Errorf("mount is allowed: %v without SYS_ADMIN, %v with it", allows(), allows("SYS_ADMIN"))
	}
}

func TestAppArmor(t *testing.T) {
	type profile = runtimeapi.SecurityProfile
	tests := []struct {
		name       string
		host       bool
		profile    *profile
		legacy     string
		privileged bool
		unloaded   bool // the default profile
		want, err  string
	}{
		{name: "nothing"},
		{name: "loaded", host: true, profile: &profile{ProfileType: localhost, LocalhostRef: "localhost/loaded"}, want: "loaded"},
		{name: "loaded without prefix", host: true, profile: &profile{ProfileType: localhost, LocalhostRef: "loaded"}, want: "loaded"},
		{name: "legacy loaded", host: true, legacy: "localhost/loaded", want: "loaded"},
		{name: "new wins", host: true, profile: &profile{ProfileType: unconfined}, legacy: "localhost/mine"},
		{name: "privileged with a profile", host: true, privileged: true, profile: &profile{ProfileType: localhost, LocalhostRef: "loaded"}},
		{name: "default that is not loaded", host: true, unloaded: true, profile: &profile{}, err: "the default profile is not loaded"},
		{name: "legacy default that is not loaded", host: true, unloaded: true, legacy: "runtime/default", err: "the default profile is not loaded"},
		{name: "unset with default that is not loaded", host: true, unloaded: true},
		{name: "default without AppArmor", profile: &profile{}},
		{name: "default", host: true, profile: &profile{}, want: "cri-node-default"},
		{name: "unset", host: true, want: "cri-node-default"},
		{name: "unconfined", host: true, profile: &profile{ProfileType: unconfined}},
		{name: "privileged", host: true, privileged: true},
		{name: "legacy unconfined", host: true, legacy: "unconfined"},
		{name: "localhost without AppArmor", profile: &profile{ProfileType: localhost, LocalhostRef: "localhost/mine"}, err: "no AppArmor"},
		{name: "not loaded", host: true, profile: &profile{ProfileType: localhost, LocalhostRef: "localhost/mine"}, err: `profile "mine" is not loaded`},
		{name: "legacy not loaded", host: true, legacy: "localhost/mine", err: `profile "mine" is not loaded`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			if tc.privileged {
				in.privileged()
				in.Defaults.PrivilegedWithoutHostDevices = true
			}
			in.Host.AppArmor, in.Host.AppArmorProfile = tc.host, "cri-node-default"
			if tc.unloaded {
				in.Host.AppArmorProfile = ""
			}
			in.Host.AppArmorLoaded = func(name string) (bool, error) { return name == "loaded", nil }
			in.security().Apparmor, in.security().ApparmorProfile = tc.profile, tc.legacy
			out, err := Container(t.Context(), in)
			if tc.err != "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
				return
			}
			must(t, err)
			exec, err := Process(out.Spec.Process, []string{"true"}, WithoutTerminal)
			must(t, err)
			if got := out.Spec.Process.ApparmorProfile; got != tc.want || exec.ApparmorProfile != tc.want {
				t.Errorf("profile is %q, that of an exec %q, want %q", got, exec.ApparmorProfile, tc.want)
			}
		})
	}
}

// The labels are the pod's business; here they reach the spec, and execs.
func TestSELinux(t *testing.T) {
	in := testInput(t)
	in.Pod.ProcessLabel, in.Pod.MountLabel = "u:r:p_t:s0:c1,c2", "u:r:f_t:s0:c1,c2"
	in.Config.Mounts = []*runtimeapi.Mount{
		{HostPath: t.TempDir(), ContainerPath: "/a", SelinuxRelabel: true},
		{HostPath: t.TempDir(), ContainerPath: "/b"},
	}
	out := build(t, in)
	p, err := Process(out.Spec.Process, []string{"true"}, WithoutTerminal)
	must(t, err)
	if p.SelinuxLabel != in.Pod.ProcessLabel || out.Spec.Linux.MountLabel != in.Pod.MountLabel {
		t.Errorf("labels are %q and %q", p.SelinuxLabel, out.Spec.Linux.MountLabel)
	}
	if len(out.Relabel) != 1 || out.Relabel[0] != in.Config.Mounts[0].HostPath {
		t.Errorf("to relabel: %q", out.Relabel)
	}
}

func TestDevices(t *testing.T) {
	dev := testDevices(t)
	tests := []struct {
		name   string
		device *runtimeapi.Device
		want   []string
		access string
		err    string
	}{
		{"node", &runtimeapi.Device{HostPath: dev + "/null", ContainerPath: "/dev/mine", Permissions: "r"}, []string{"/dev/mine"}, "r", ""},
		{"same path", &runtimeapi.Device{HostPath: dev + "/null"}, []string{dev + "/null"}, "rwm", ""},
		{"link", &runtimeapi.Device{HostPath: dev + "/link", ContainerPath: "/dev/l"}, []string{"/dev/l"}, "rwm", ""},
		{"directory", &runtimeapi.Device{HostPath: dev, ContainerPath: "/dev/d/", Permissions: "rw"}, []string{"/dev/d/null", "/dev/d/sub/zero"}, "rw", ""},
		{"file", &runtimeapi.Device{HostPath: dev + "/plain"}, nil, "", "is no device"},
		{"missing", &runtimeapi.Device{HostPath: dev + "/none"}, nil, "", "no such file"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Config.Devices = []*runtimeapi.Device{tc.device}
			out, err := Container(t.Context(), in)
			if tc.err != "" {
				wantInvalid(t, err, "config.devices[0].host_path")
				if !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
				return
			}
			must(t, err)
			var got []string
			for _, d := range out.Spec.Linux.Devices {
				got = append(got, d.Path)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("devices are %v, want %v", got, tc.want)
			}
			rules := out.Spec.Linux.Resources.Devices
			if rules[0].Allow || rules[0].Access != "rwm" || rules[len(rules)-1].Access != tc.access {
				t.Errorf("rules are %+v", rules)
			}
		})
	}
	in := testInput(t)
	in.Defaults.DeviceOwnership = true
	in.security().RunAsUser, in.security().RunAsGroup = id(5), id(6)
	in.Config.Devices = []*runtimeapi.Device{{HostPath: dev + "/null"}}
	if d := build(t, in).Spec.Linux.Devices[0]; *d.UID != 5 || *d.GID != 6 {
		t.Errorf("device belongs to %d:%d", *d.UID, *d.GID)
	}
}
