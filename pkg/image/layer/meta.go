package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	paxXattr        = "SCHILY.xattr."
	capabilityXattr = "security.capability"
	userXattr       = "user."
	// userOverlayXattr is what overlayfs mounted with userxattr takes for its
	// own, as it does trusted.overlay.
	userOverlayXattr = "user.overlay."
)

type xattr struct{ name, value string }

// meta is an entry's metadata, checked.
type meta struct {
	uid, gid int
	mode     uint32 // permissions with setuid, setgid and sticky
	times    [2]unix.Timespec
	xattrs   []xattr
}

func metaOf(hdr *tar.Header) (meta, error) {
	// -1, in 32 bits, would leave the owner at root.
	if !validID(hdr.Uid) || !validID(hdr.Gid) {
		return meta{}, invalidf("owner %d:%d out of range", hdr.Uid, hdr.Gid)
	}
	m := meta{uid: hdr.Uid, gid: hdr.Gid, mode: uint32(hdr.Mode) & 0o7777}
	m.times[1] = timespec(hdr.ModTime)
	m.times[0] = m.times[1]
	if hdr.AccessTime.After(hdr.ModTime) {
		m.times[0] = timespec(hdr.AccessTime)
	}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if ok && takeXattr(name) {
			m.xattrs = append(m.xattrs, xattr{name, value})
		}
	}
	return m, nil
}

func validID(id int) bool { return id >= 0 && int64(id) < math.MaxUint32 }

// takeXattr is a list of what is allowed. See the package documentation.
func takeXattr(name string) bool {
	if strings.HasPrefix(name, userXattr) {
		return !strings.HasPrefix(name, userOverlayXattr)
	}
	return name == capabilityXattr
}

// timespec is 1970 for what is earlier or beyond the kernel's type, as in
// containerd. The file system cuts off what it cannot store.
func timespec(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil || ts.Sec < 0 {
		return unix.Timespec{}
	}
	return ts
}

// setMeta sets a directory's metadata, and its times when it is closed.
func (d *directory) setMeta(m meta) error {
	d.times, d.dirty, d.gid = m.times, true, m.gid
	if err := os.NewSyscallError("fchown", unix.Fchown(d.fd, m.uid, m.gid)); err != nil {
		return err
	}
	return m.setFd(d.fd, false)
}

// setFd sets attributes and mode of a regular file or directory that is open
// and has its owner.
func (m *meta) setFd(fd int, regular bool) error {
	for _, x := range m.xattrs {
		if x.name == capabilityXattr && !regular {
			continue
		}
		err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0)
		if errors.Is(err, unix.ENOTSUP) && x.name != capabilityXattr {
			continue // a file system without user attributes; nothing needs them
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %s: %w", quote(x.name), os.NewSyscallError("fsetxattr", err))
		}
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, m.mode))
}

func chownAt(dir int, name string, m meta) error {
	return os.NewSyscallError("fchownat", unix.Fchownat(dir, name, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW))
}

func setTimes(dir int, name string, times [2]unix.Timespec) error {
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, name, times[:], unix.AT_SYMLINK_NOFOLLOW))
}

// chmodAt does not follow a symlink, which takes fchmodat2 (Linux 6.6) or /proc.
func chmodAt(dir int, name string, mode uint32) error {
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return os.NewSyscallError("fchmodat2", err)
	}
	fd, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = os.NewSyscallError("chmod", unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode))
	return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
}

func mkdirat(dir int, name string) error {
	return os.NewSyscallError("mkdirat", unix.Mkdirat(dir, name, 0o755))
}

func setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, opaqueXattr, []byte{'y'}, 0); err != nil {
		return fmt.Errorf("make directory opaque: %w", os.NewSyscallError("fsetxattr", err))
	}
	return nil
}

func setOpaqueAt(dir int, name string) error {
	fd, err := openDirAt(dir, name)
	if err != nil {
		return err
	}
	return errors.Join(setOpaque(fd), os.NewSyscallError("close", unix.Close(fd)))
}
