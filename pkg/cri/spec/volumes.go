package spec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unicode/utf8"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Volume is a directory that an image declares to be a volume, and that gets a
// directory of the container's own, with the image's content, mounted over it.
// ContainerStatus does not list it.
type Volume struct {
	// Path is where it is in the container, clean and absolute.
	Path string
	// Dir is the host directory.
	Dir string
	// UID and GID are who on the host is the container's root.
	UID, GID int
}

// maxVolumes bounds what an image can make us mount.
const maxVolumes = 256

// planVolumes lists the image's volumes and their mounts, in an order that does
// not change from call to call.
func (b *builder) planVolumes() ([]specs.Mount, error) {
	declared := b.image.Config.Volumes
	if b.in.VolumesDir == "" || len(declared) == 0 {
		return nil, nil
	}
	if len(declared) > maxVolumes {
		return nil, invalid("image config.Volumes", "more than %d volumes", maxVolumes)
	}
	var mounts []specs.Mount
	seen := map[string]bool{"/etc/resolv.conf": true, "/etc/hosts": true, "/etc/hostname": true}
	for i, raw := range slices.Sorted(maps.Keys(declared)) {
		if err := checkPathText("image config.Volumes", raw); err != nil {
			return nil, err
		}
		path := filepath.Clean("/" + raw)
		if path == "/" {
			return nil, invalid("image config.Volumes", "%s is the root", quote(raw))
		}
		if seen[path] {
			continue
		}
		seen[path] = true
		if isKernelPath(path) {
			b.warn("image volume %s is left out: the directory is the kernel's", quote(path))
			continue
		}
		v := Volume{Path: path, Dir: filepath.Join(b.in.VolumesDir, strconv.Itoa(i))}
		v.UID, v.GID = b.in.Pod.UserNS.Mappings().Root()
		b.out.Volumes = append(b.out.Volumes, v)
		mounts = append(mounts, specs.Mount{Destination: path, Type: "bind", Source: v.Dir, Options: []string{"rbind", private, "rw"}})
	}
	return mounts, nil
}

// checkPathText refuses text that is no path on any system.
func checkPathText(field, path string) error {
	switch {
	case path == "":
		return invalid(field, "is empty")
	case len(path) >= unix.PathMax:
		return invalid(field, "is longer than %d bytes", unix.PathMax-1)
	case !utf8.ValidString(path) || hasControl(path):
		return invalid(field, "%s has control characters or is not UTF-8", quote(path))
	}
	return nil
}

// isKernelPath reports whether a path in a container is in a file system of
// the kernel rather than the image.
func isKernelPath(path string) bool {
	return isAtOrBelow(path, "/proc") || isAtOrBelow(path, "/sys") || isAtOrBelow(path, "/dev")
}

// PrepareVolumes makes the directories of volumes and copies the image's
// content, owners and modes into each. rootfs is the mounted root file system,
// in which nothing runs yet; paths of volumes are resolved inside it, and the
// copy follows no link (CVE-2022-23648). What is no directory, file or link is
// left out. Existing directories of an interrupted call are written over.
func PrepareVolumes(ctx context.Context, rootfs string, volumes []Volume) error {
	for _, v := range volumes {
		if err := prepareVolume(ctx, rootfs, v); err != nil {
			return fmt.Errorf("prepare image volume %s: %w", quote(v.Path), err)
		}
	}
	return nil
}

func prepareVolume(ctx context.Context, rootfs string, v Volume) (err error) {
	if err := os.MkdirAll(v.Dir, 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(v.Dir, v.UID, v.GID), os.Chmod(v.Dir, 0o755)); err != nil {
		return err
	}
	handle, err := pathrs.OpenInRoot(rootfs, v.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return invalid("image config.Volumes", "%v", err)
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	info, err := handle.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return invalid("image config.Volumes", "%s is no directory in the image", quote(v.Path))
	}
	// The handle is the directory itself, so no name is looked up again.
	from, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(handle.Fd())))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := os.OpenRoot(v.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return fs.WalkDir(from.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return copyEntry(from, to, name)
	})
}

// copyEntry copies one file, link or, without its content, directory.
func copyEntry(from, to *os.Root, name string) error {
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		if err := to.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) && name != "." {
			return err
		}
	case info.Mode().IsRegular():
		if err := copyFile(from, to, name); err != nil {
			return err
		}
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		if err := to.Symlink(target, name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	default:
		return nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := to.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	// After the owner, whose change takes setuid bits away.
	return to.Chmod(name, info.Mode())
}

func copyFile(from, to *os.Root, name string) (err error) {
	in, err := from.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
