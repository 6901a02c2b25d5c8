package spec

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// at finds the one mount at a destination.
func at(t *testing.T, mounts []specs.Mount, destination string) *specs.Mount {
	t.Helper()
	var found *specs.Mount
	for i, m := range mounts {
		if m.Destination != destination {
			continue
		}
		if found != nil {
			t.Errorf("two mounts at %s", destination)
		}
		found = &mounts[i]
	}
	return found
}

func TestMountOrder(t *testing.T) {
	in := testInput(t)
	dir := t.TempDir()
	for _, p := range []string{"/a/b/c", "/a", "/etc/hosts", "/a/b", "/dev/shm", "/sys/fs/cgroup"} {
		in.Config.Mounts = append(in.Config.Mounts, &runtimeapi.Mount{ContainerPath: p, HostPath: dir})
	}
	mounts := build(t, in).Spec.Mounts
	for i, m := range mounts {
		for _, later := range mounts[i+1:] {
			if isBelow(m.Destination, later.Destination) {
				t.Errorf("%s is mounted before its parent %s", m.Destination, later.Destination)
			}
		}
	}
	for _, p := range []string{"/etc/hosts", "/dev/shm", "/sys/fs/cgroup"} {
		if m := at(t, mounts, p); m == nil || m.Source != dir {
			t.Errorf("mount at %s is %+v, want the requested one", p, m)
		}
	}
}

func TestMountsGiveWay(t *testing.T) {
	tests := []struct {
		path        string
		propagation runtimeapi.MountPropagation
		gone, kept  []string
	}{
		{"/dev", 0, []string{"/dev/pts", "/dev/shm", "/dev/mqueue"}, []string{"/sys", "/etc/hosts"}},
		{"/sys", 0, []string{"/sys/fs/cgroup"}, []string{"/dev", "/dev/pts"}},
		{"/sys/fs", 0, []string{"/sys/fs/cgroup"}, []string{"/sys"}},
		{"/etc", 0, nil, []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}},
		{"/etc", runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}, []string{"/dev"}},
		{"/devices", 0, nil, []string{"/dev/pts"}},
	}
	for _, tc := range tests {
		requested := []*runtimeapi.Mount{{ContainerPath: tc.path + "/", Propagation: tc.propagation}}
		for _, p := range tc.gone {
			if !replaced(p, requested) {
				t.Errorf("%s stays below a mount at %s", p, tc.path)
			}
		}
		for _, p := range tc.kept {
			if replaced(p, requested) {
				t.Errorf("%s gives way to a mount at %s", p, tc.path)
			}
		}
	}
}

func TestMountOptions(t *testing.T) {
	in := testInput(t)
	dir := t.TempDir()
	in.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/rw", HostPath: dir},
		{ContainerPath: "/ro", HostPath: dir, Readonly: true, MountOptions: []string{"noexec", "nodev"}},
		{ContainerPath: "/rro", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/store", HostPath: filepath.Dir(dir)},
	}
	in.Host.StorageRoots = []string{dir + "/"}
	out := build(t, in)
	for p, want := range map[string]string{"/rw": "rbind rslave rw", "/ro": "rbind rslave ro noexec nodev", "/rro": "rbind rprivate rro", "/store": "rbind rslave rw"} {
		if got := strings.Join(at(t, out.Spec.Mounts, p).Options, " "); got != want {
			t.Errorf("options at %s are %q, want %q", p, got, want)
		}
	}
	if out.Spec.Linux.RootfsPropagation != "rslave" {
		t.Errorf("root propagation is %q", out.Spec.Linux.RootfsPropagation)
	}
	in.Host.StorageRoots = []string{filepath.Join(dir, "..", "other")}
	in.Config.Mounts = in.Config.Mounts[:1]
	if got := at(t, build(t, in).Spec.Mounts, "/rw").Options[1]; got != "rprivate" {
		t.Errorf("propagation beside a storage root is %s", got)
	}

	in.Runtime.RRO = false
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/rro", HostPath: dir, Readonly: true, RecursiveReadOnly: true}}
	_, err := Container(t.Context(), in)
	if !errors.Is(err, crierrors.ErrRROUnsupported) || !strings.HasPrefix(err.Error(), "RROUnsupported") || errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	in.Runtime.MountOptions = []string{"ro"}
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: dir, MountOptions: []string{"nosuid"}}}
	_, err = Container(t.Context(), in)
	wantInvalid(t, err, "config.mounts[0].mount_options[0]")
}

func TestImageMount(t *testing.T) {
	in := testInput(t)
	dir := t.TempDir()
	in.Runtime.RRO = false
	mount := &runtimeapi.Mount{
		ContainerPath: "/img", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"nodev", "noexec"},
		Image: &runtimeapi.ImageSpec{Image: "sha256:def"},
	}
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: dir}, mount}
	in.ImageMounts = map[int]string{1: dir}
	m := at(t, build(t, in).Spec.Mounts, "/img")
	if got := strings.Join(m.Options, " "); got != "rbind rprivate ro nodev noexec" || m.Source != dir || m.Type != "bind" {
		t.Errorf("mount of an image is %+v", m)
	}
	mount.ContainerPath = "/proc/self"
	_, err := Container(t.Context(), in)
	wantInvalid(t, err, "config.mounts[1].container_path")
	mount.ContainerPath, in.ImageMounts = "/img", nil
	if _, err := Container(t.Context(), in); !errdefs.IsNotImplemented(err) {
		t.Errorf("image that nobody has mounted: %v", err)
	}
}

func TestMountSource(t *testing.T) {
	oldMask := unix.Umask(0o077)
	defer unix.Umask(oldMask)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	symlink(t, "real", filepath.Join(dir, "link"))
	symlink(t, "nowhere", filepath.Join(dir, "dangling"))
	file := writeFile(t, dir, "file", "")
	in := testInput(t)
	in.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/missing", HostPath: filepath.Join(dir, "a/b/c")},
		{ContainerPath: "/link", HostPath: filepath.Join(dir, "link")},
		{ContainerPath: "/file", HostPath: file},
	}
	mounts := build(t, in).Spec.Mounts
	if m := at(t, mounts, "/link"); m.Source != filepath.Join(dir, "real") {
		t.Errorf("source through a link is %s", m.Source)
	}
	for _, p := range []string{"a", "a/b", "a/b/c"} {
		info, err := os.Stat(filepath.Join(dir, p))
		must(t, err)
		if info.Mode().Perm() != 0o755 {
			t.Errorf("made directory %s has mode %v", p, info.Mode())
		}
	}
	if in.Config.Mounts[1].HostPath != filepath.Join(dir, "link") {
		t.Error("the request was changed")
	}
	for _, source := range []string{"dangling", "file/below"} {
		in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: filepath.Join(dir, source)}}
		_, err := Container(t.Context(), in)
		wantInvalid(t, err, "config.mounts[0].host_path")
	}
}

// TestNothingMadeForRefused shows that a wrong second mount keeps the source of
// the first from being made.
func TestNothingMadeForRefused(t *testing.T) {
	dir := t.TempDir()
	in := testInput(t)
	in.Runtime.RRO = false
	in.Config.WorkingDir = "/made"
	in.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/a", HostPath: filepath.Join(dir, "a")},
		{ContainerPath: "/b", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
	}
	if _, err := Container(t.Context(), in); err == nil {
		t.Fatal("no error")
	}
	for _, p := range []string{filepath.Join(dir, "a"), filepath.Join(in.Rootfs, "made")} {
		if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made", p)
		}
	}
}

func TestProcMount(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		at, source string
		ok         bool
	}{
		{"/proc", "/proc", true},
		{"/proc", dir, false},
		{"/proc/self", dir, false},
		{"/proc/sys", "/proc/sys", false},
		{"/proc/cpuinfo", writeFile(t, dir, "cpuinfo", ""), true},
	} {
		in := testInput(t)
		in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: tc.at, HostPath: tc.source}}
		_, err := Container(t.Context(), in)
		if tc.ok {
			must(t, err)
			continue
		}
		wantInvalid(t, err, "config.mounts[0].container_path")
	}
}

// inMountNamespace runs test in a mount namespace of its own thread, all of
// whose mounts are private and go with the thread.
func inMountNamespace(t *testing.T, test func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is not unlocked: it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			t.Logf("make a mount namespace: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("make mounts private: %v", err)
			return
		}
		test()
	}()
	<-done
}

func TestPropagation(t *testing.T) {
	dir := t.TempDir()
	in := testInput(t)
	ctx := t.Context()
	inMountNamespace(t, func() {
		for name, flags := range map[string]uintptr{"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED, "slave": unix.MS_SHARED} {
			p := filepath.Join(dir, name)
			if err := errors.Join(os.Mkdir(p, 0o755), unix.Mount("tmpfs", p, "tmpfs", 0, ""), unix.Mount("", p, "", flags, ""), os.Mkdir(p+"/below", 0o755)); err != nil {
				t.Error(err)
				return
			}
		}
		// A slave needs a master to be one: a bind mount shares with it first.
		p := filepath.Join(dir, "slave")
		if err := errors.Join(os.Mkdir(p+"-copy", 0o755), unix.Mount(p, p+"-copy", "", unix.MS_BIND, ""), unix.Mount("", p, "", unix.MS_SLAVE, "")); err != nil {
			t.Error(err)
			return
		}
		const h2c, bidir = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		for _, tc := range []struct {
			source      string
			propagation runtimeapi.MountPropagation
			want        string // empty: refused
		}{
			{"private/below", 0, "rprivate"}, {"private/below", h2c, ""}, {"private/below", bidir, ""},
			{"shared/below", 0, "rprivate"}, {"shared/below", h2c, "rslave"}, {"shared/below", bidir, "rshared"},
			{"slave/below", h2c, "rslave"}, {"slave/below", bidir, ""}, {"shared", bidir, "rshared"},
		} {
			in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: filepath.Join(dir, tc.source), Propagation: tc.propagation}}
			out, err := Container(ctx, in)
			if tc.want == "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.HasPrefix(err.Error(), "config.mounts[0].propagation:") {
					t.Errorf("%s %s: error is %v", tc.source, tc.propagation, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s %s: %v", tc.source, tc.propagation, err)
				continue
			}
			root := tc.want
			if root == "rprivate" {
				root = ""
			}
			if m := out.Spec.Mounts; !slices.ContainsFunc(m, func(m specs.Mount) bool { return m.Destination == "/m" && m.Options[1] == tc.want }) || out.Spec.Linux.RootfsPropagation != root {
				t.Errorf("%s %s: mounts are %v, root is %q", tc.source, tc.propagation, m, out.Spec.Linux.RootfsPropagation)
			}
		}
	})
}
