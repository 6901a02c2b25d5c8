package layer

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openat returns a fd that the caller owns.
func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return -1, os.NewSyscallError("openat", err)
	}
	return fd, nil
}

// openDirAt opens the directory name, one component, in dir. A symlink is
// ENOTDIR. The caller owns the fd.
func openDirAt(dir int, name string) (int, error) { return openat(dir, name, openDir, 0) }

// openBeneath opens the directory at p, which may have many components but no
// symlink. The caller owns the fd.
func openBeneath(root int, p string) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   openDir | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	// EAGAIN is for ".." racing with a rename anywhere on the machine. There is
	// no ".." in p, but the manual promises no more than that one may retry.
	for range 64 {
		err = retry(func() error {
			fd, err = unix.Openat2(root, p, &how)
			return err
		})
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	if errors.Is(err, unix.ENOSYS) {
		return -1, fmt.Errorf("openat2 (Linux 5.6): %w", errdefs.ErrNotImplemented)
	}
	if err != nil {
		return -1, os.NewSyscallError("openat2", err)
	}
	return fd, nil
}

func fstat(fd int) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstat(fd, &st) })
	return st, os.NewSyscallError("fstat", err)
}

// statAt does not follow a symlink.
func statAt(dir int, name string) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, os.NewSyscallError("fstatat", err)
}

func unlinkat(dir int, name string, flags int) error {
	return os.NewSyscallError("unlinkat", retry(func() error { return unix.Unlinkat(dir, name, flags) }))
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(buf[:n]), nil
}

// readNames lists some of a directory, which has to be open for reading, from
// where it stands. It returns none at the end.
func readNames(fd int) ([]string, error) {
	buf := make([]byte, 16<<10)
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.Getdents(fd, buf); return err })
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n <= 0 {
			return nil, nil
		}
		if _, _, names := unix.ParseDirent(buf[:n], -1, nil); len(names) > 0 {
			return names, nil
		}
	}
}

// pwrite writes all of p at offset.
func pwrite(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		var n int
		err := retry(func() (err error) { n, err = unix.Pwrite(fd, p, offset); return err })
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// isWhiteout reports whether a file is one of overlayfs. As the directory was
// empty and device 0:0 is refused in the tar, it is one that this package made.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}
