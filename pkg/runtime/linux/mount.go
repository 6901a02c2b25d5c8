package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MountPoints lists what is mounted at path or below it in this mount
// namespace, deepest and newest first, which is the order to unmount in.
func MountPoints(path string) ([]string, error) {
	// Not /proc/self: that is the main thread's namespace, whatever became of it.
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	points, err := parseMountPoints(f, filepath.Clean(path))
	return points, errors.Join(err, f.Close())
}

// parseMountPoints reads proc_pid_mountinfo(5), whose fifth field is the mount
// point with octal escapes for space, tab, newline and backslash.
func parseMountPoints(r io.Reader, under string) ([]string, error) {
	var points []string
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20) // an overlay's options alone can pass the default of 64 KiB
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 5 {
			return nil, fmt.Errorf("mountinfo line has %d fields: %q", len(fields), scanner.Text())
		}
		point := unescapeMount(fields[4])
		if point == under || strings.HasPrefix(point, strings.TrimSuffix(under, "/")+"/") {
			points = append(points, point)
		}
	}
	// Later lines are mounted over earlier ones.
	for i, j := 0, len(points)-1; i < j; i, j = i+1, j-1 {
		points[i], points[j] = points[j], points[i]
	}
	return points, scanner.Err()
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescapeMount(s string) string { return mountEscapes.Replace(s) }

// IsMountPoint reports whether something is mounted exactly at path. It does
// not follow a final symbolic link.
func IsMountPoint(path string) (bool, error) {
	st, err := statMount(unix.AT_FDCWD, path, path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// Unmount detaches everything mounted at path, however often it is stacked.
// It is lazy (MNT_DETACH): users of the mount keep it until they let go, and
// nobody waits. A path that is no mount point is a success.
func Unmount(path string) error {
	for {
		err := retry(func() error { return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// UnmountAll detaches everything at path and below it.
func UnmountAll(path string) error {
	if mounted, err := MountBelow(path); err != nil || mounted == "" {
		return err
	}
	points, err := MountPoints(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range points {
		errs = append(errs, Unmount(p))
	}
	return errors.Join(errs...)
}

// Bind bind-mounts source, which may be a file, on target, which must exist
// and be of the same kind. The new mount is private.
func Bind(source, target string) error {
	if err := retry(func() error { return unix.Mount(source, target, "", unix.MS_BIND, "") }); err != nil {
		return &os.PathError{Op: "bind mount " + source + " on", Path: target, Err: err}
	}
	if err := retry(func() error { return unix.Mount("", target, "", unix.MS_PRIVATE, "") }); err != nil {
		return errors.Join(&os.PathError{Op: "make private", Path: target, Err: err}, Unmount(target))
	}
	return nil
}

// CanChangeTrees reports whether the kernel can change the attributes of mounts
// with all below them (mount_setattr, Linux 5.12), which recursive read-only
// mounts take.
func CanChangeTrees() bool {
	err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{}) // changes nothing
	return err == nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		err := call()
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
