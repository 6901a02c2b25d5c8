package spec

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVolumes(t *testing.T) {
	in := testInput(t)
	in.VolumesDir = filepath.Join(t.TempDir(), "volumes")
	secret := t.TempDir()
	writeFile(t, secret, "secret", "host\n")
	symlink(t, secret, filepath.Join(in.Rootfs, "out"))
	symlink(t, "/data", filepath.Join(in.Rootfs, "alias"))
	writeFile(t, in.Rootfs, "data/sub/file", "image\n")
	must(t, os.Chmod(filepath.Join(in.Rootfs, "data/sub"), os.ModeSetgid|0o750))
	must(t, os.Chmod(filepath.Join(in.Rootfs, "data/sub/file"), os.ModeSetuid|0o755))
	must(t, unix.Mkfifo(filepath.Join(in.Rootfs, "data/fifo"), 0o644))
	symlink(t, filepath.Join(secret, "secret"), filepath.Join(in.Rootfs, "data/link"))
	if os.Getuid() == 0 {
		must(t, os.Lchown(filepath.Join(in.Rootfs, "data"), 7, 8))
	}
	in.Image.Config.Volumes = map[string]struct{}{"/data": {}, "/data/": {}, "/alias": {}, "/out": {}, "new": {}, "/mine": {}, "/proc": {}, "/sys/x": {}, "/etc/hosts": {}}
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/mine", HostPath: secret}}
	out := build(t, in)
	var paths []string
	for _, v := range out.Volumes {
		paths = append(paths, v.Path)
		if m := at(t, out.Spec.Mounts, v.Path); m == nil || m.Source != v.Dir || filepath.Dir(v.Dir) != in.VolumesDir {
			t.Errorf("mount of volume %+v is %+v", v, m)
		}
	}
	if want := []string{"/alias", "/data", "/out", "/new"}; !slices.Equal(paths, want) {
		t.Errorf("volumes are %v, want %v", paths, want)
	}
	if m := at(t, out.Spec.Mounts, "/mine"); m.Source != secret {
		t.Errorf("the request's mount is %+v", m)
	}
	if len(out.Warnings) != 2 {
		t.Errorf("warnings are %q", out.Warnings)
	}
	oldMask := unix.Umask(0o077)
	defer unix.Umask(oldMask)
	for range 2 { // twice, as after an interrupted call
		must(t, PrepareVolumes(t.Context(), in.Rootfs, out.Volumes))
	}
	for _, v := range out.Volumes {
		_, err := os.Stat(filepath.Join(v.Dir, "secret"))
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("volume %s has the host's file", v.Path)
		}
	}
	data := out.Volumes[1].Dir
	for name, mode := range map[string]os.FileMode{"sub": os.ModeDir | os.ModeSetgid | 0o750, "sub/file": os.ModeSetuid | 0o755} {
		info, err := os.Lstat(filepath.Join(data, name))
		must(t, err)
		if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}
	if _, err := os.Lstat(filepath.Join(data, "fifo")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the FIFO was copied")
	}
	if target, err := os.Readlink(filepath.Join(data, "link")); err != nil || target != filepath.Join(secret, "secret") {
		t.Errorf("link is %q, %v", target, err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(data, &st))
	if os.Getuid() == 0 && (st.Uid != 7 || st.Gid != 8 || st.Mode&0o777 != 0o755) {
		t.Errorf("volume has owner %d:%d and mode %o", st.Uid, st.Gid, st.Mode)
	}
}

func TestHostileVolumes(t *testing.T) {
	in := testInput(t)
	in.VolumesDir = t.TempDir()
	many := map[string]struct{}{}
	for i := range 10000 {
		many["/v"+itoa(i)] = struct{}{}
	}
	for name, volumes := range map[string]map[string]struct{}{
		"root": {"/": {}}, "dots": {"/../../..": {}}, "relative dots": {"..": {}}, "empty": {"": {}}, "not text": {"/\xff": {}}, "control": {"/a\nb": {}}, "many": many,
	} {
		in.Image = &ocispec.Image{Config: ocispec.ImageConfig{Volumes: volumes}}
		if _, err := Container(t.Context(), in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	err := PrepareVolumes(t.Context(), in.Rootfs, []Volume{{Path: "/etc/passwd", Dir: filepath.Join(in.VolumesDir, "0")}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("volume at a file: error is %v", err)
	}
}

func TestWorkingDir(t *testing.T) {
	oldMask := unix.Umask(0o077)
	defer unix.Umask(oldMask)
	outside := t.TempDir()
	tests := []struct {
		name, request, image string
		prepare              func(t *testing.T, root string)
		want                 string // Cwd
		made                 string // relative to the root
		err                  string
	}{
		{name: "none", want: "/"},
		{name: "image", image: "/srv//app/", want: "/srv/app", made: "srv/app"},
		{name: "request over image", request: "/a/b/c", image: "/srv", want: "/a/b/c", made: "a/b/c"},
		{name: "image relative", image: "srv", err: "image config.WorkingDir"},
		{name: "image proc", image: "/proc/self/fd/7", err: "image config.WorkingDir"},
		{name: "link outside", request: "/link/a/b", want: "/link/a/b", made: strings.TrimPrefix(outside, "/") + "/a/b",
			prepare: func(t *testing.T, root string) {
				symlink(t, outside, filepath.Join(root, "link"))
				must(t, os.MkdirAll(root+outside, 0o755))
			}},
		{name: "link dangling", request: "/link", prepare: func(t *testing.T, root string) { symlink(t, outside, filepath.Join(root, "link")) }, err: "config.working_dir"},
		{name: "link to proc", request: "/link", prepare: func(t *testing.T, root string) {
			must(t, os.MkdirAll(root+"/proc/self", 0o755))
			symlink(t, "/proc/self", filepath.Join(root, "link"))
		}, err: "file system of the kernel"},
		{name: "file", request: "/etc/passwd", err: "config.working_dir"},
		{name: "below a file", request: "/etc/passwd/x", err: "config.working_dir"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Config.WorkingDir, in.Image.Config.WorkingDir = tc.request, tc.image
			if tc.prepare != nil {
				tc.prepare(t, in.Rootfs)
			}
			out, err := Container(t.Context(), in)
			entries, readErr := os.ReadDir(outside)
			must(t, readErr)
			if len(entries) > 0 {
				t.Errorf("made %v outside of the root", entries)
			}
			if tc.err != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
				return
			}
			must(t, err)
			if out.Spec.Process.Cwd != tc.want {
				t.Errorf("cwd is %s, want %s", out.Spec.Process.Cwd, tc.want)
			}
			for dir := tc.made; dir != "" && dir != "." && !strings.HasPrefix(outside, "/"+dir); dir = filepath.Dir(dir) {
				info, err := os.Stat(filepath.Join(in.Rootfs, dir))
				must(t, err)
				if info.Mode() != os.ModeDir|0o755 {
					t.Errorf("%s has mode %v", dir, info.Mode())
				}
			}
		})
	}
	// On a mount the directory is the mount's.
	in := testInput(t)
	in.Config.WorkingDir = "/m/sub"
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: outside}}
	build(t, in)
	if _, err := os.Lstat(filepath.Join(in.Rootfs, "m")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a directory was made below a mount")
	}
}
