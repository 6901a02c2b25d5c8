package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestTmpfs(t *testing.T) {
	in := testInput(t)
	in.VolumesDir = t.TempDir()
	in.Image = &ocispec.Image{Config: ocispec.ImageConfig{Volumes: map[string]struct{}{"/data": {}, "/other": {}}}}
	in.Extras.Tmpfs = []Tmpfs{{Path: "/data/"}, {Path: "/dev/shm", Options: []string{"size=1m", "exec"}}, {Path: "/run", Options: []string{"mode=1777", "ro"}}}
	out := build(t, in)
	for path, options := range map[string]string{
		"/data": "nosuid nodev noexec", "/dev/shm": "nosuid nodev noexec size=1m exec", "/run": "nosuid nodev noexec mode=1777 ro",
	} {
		m := at(t, out.Spec.Mounts, path)
		if m == nil || m.Type != "tmpfs" || strings.Join(m.Options, " ") != options {
			t.Errorf("%s: %+v", path, m)
		}
	}
	if len(out.Volumes) != 1 || out.Volumes[0].Path != "/other" {
		t.Errorf("volumes %v", out.Volumes)
	}
	dev := slices.IndexFunc(out.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" })
	shm := slices.IndexFunc(out.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	if dev > shm {
		t.Error("/dev covers what is below it")
	}
}

func TestBadExtras(t *testing.T) {
	mounted := &runtimeapi.Mount{ContainerPath: "/m", HostPath: "/tmp"}
	for name, tc := range map[string]struct {
		extras Extras
		mounts []*runtimeapi.Mount
		field  string
	}{
		"relative":         {extras: Extras{Tmpfs: []Tmpfs{{Path: "x"}}}, field: "tmpfs[0].path"},
		"empty":            {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a"}, {}}}, field: "tmpfs[1].path"},
		"root":             {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a/.."}}}, field: "tmpfs[0].path"},
		"proc":             {extras: Extras{Tmpfs: []Tmpfs{{Path: "/proc/sys"}}}, field: "tmpfs[0].path"},
		"newline":          {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a\nb"}}}, field: "tmpfs[0].path"},
		"twice":            {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a"}, {Path: "/a/"}}}, field: "tmpfs[1].path"},
		"a mount is there": {extras: Extras{Tmpfs: []Tmpfs{{Path: "/m"}}}, mounts: []*runtimeapi.Mount{mounted}, field: "tmpfs[0].path"},
		"many":             {extras: Extras{Tmpfs: make([]Tmpfs, 300)}, field: "tmpfs"},
		"option comma":     {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a", Options: []string{"ro", "size=1,dev"}}}}, field: "tmpfs[0].options[1]"},
		"option name":      {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a", Options: []string{"=1"}}}}, field: "tmpfs[0].options[0]"},
		"option newline":   {extras: Extras{Tmpfs: []Tmpfs{{Path: "/a", Options: []string{"size=\n"}}}}, field: "tmpfs[0].options[0]"},
		"signal":           {extras: Extras{StopSignal: "SIGNOT"}, field: "stop signal"},
		"init under /dev": {
			extras: Extras{Init: "/init"}, mounts: []*runtimeapi.Mount{{ContainerPath: "/dev/", HostPath: "/dev"}}, field: "init",
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput(t)
			in.Extras, in.Config.Mounts = tc.extras, tc.mounts
			if _, err := Container(t.Context(), in); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.field) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestInitAndStopSignal(t *testing.T) {
	in := testInput(t)
	in.Config.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
	in.Extras = Extras{Init: "/run/init", StopSignal: "RTMIN+3"}
	out := build(t, in)
	if got := strings.Join(out.Spec.Process.Args, " "); got != initPath+" /bin/sh -c true" {
		t.Errorf("arguments %q", got)
	}
	if m := at(t, out.Spec.Mounts, initPath); m == nil || m.Source != "/run/init" || !slices.Contains(m.Options, "ro") {
		t.Errorf("mount %+v", m)
	}
	if out.StopSignal.Name() != "SIGRTMIN+3" {
		t.Errorf("stop signal %s", out.StopSignal.Name())
	}
	in.Extras = Extras{}
	if out := build(t, in); out.StopSignal.Name() != "SIGUSR1" || out.Spec.Process.Args[0] != "/bin/sh" {
		t.Errorf("without extras: %s, %v", out.StopSignal.Name(), out.Spec.Process.Args)
	}
}
