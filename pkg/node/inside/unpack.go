package inside

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Unpacking says how to unpack.
type Unpacking struct {
	// Owner is whose files become, where KeepOwner does not let them keep the
	// tar's. UID and GID map those.
	KeepOwner bool
	UID, GID  IDs
	OwnerUID  uint32
	OwnerGID  uint32
}

// Unpack unpacks a tar in a directory inside, which must exist. Files that are
// there are replaced, directories filled; a directory and a file do not replace
// one another.
func (r *Root) Unpack(ctx context.Context, dir string, content io.Reader, o Unpacking) error {
	st, err := r.Stat(dir, true)
	if err != nil {
		return err
	}
	if !st.Mode.IsDir() {
		return fmt.Errorf("%s is no directory: %w", dir, errdefs.ErrInvalidArgument)
	}
	u := &unpacker{root: r, dir: dir, options: o}
	archive := tar.NewReader(content)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return u.finishDirectories()
		}
		if err != nil {
			return fmt.Errorf("read tar: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := u.entry(h, archive); err != nil {
			if errors.Is(err, unix.EOVERFLOW) {
				err = fmt.Errorf("the container has a user namespace, where files cannot be made from outside: use tar c ... | cri-node exec -i CONTAINER tar x: %w: %w",
					err, errdefs.ErrFailedPrecondition)
			}
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

type unpacker struct {
	root        *Root
	dir         string
	options     Unpacking
	directories []*tar.Header
}

// at is where a name of the tar is, seen from the root. ".." leads up to dir and
// no further.
func (u *unpacker) at(name string) string { return path.Join("/", u.dir, path.Join("/", name)) }

// parent opens the directory that a name of the tar is in. The kernel resolves it
// anew each time.
func (u *unpacker) parent(name string) (fd int, base string, err error) {
	full := u.at(name)
	fd, err = u.root.resolve(path.Dir(full), unix.O_DIRECTORY)
	if errors.Is(err, errdefs.ErrNotFound) {
		if err := u.makeParents(path.Dir(path.Join("/", name))); err != nil {
			return -1, "", err
		}
		fd, err = u.root.resolve(path.Dir(full), unix.O_DIRECTORY)
	}
	return fd, path.Base(full), err
}

// makeParents makes the directories that a tar has forgotten.
func (u *unpacker) makeParents(dir string) error {
	if dir == "/" {
		return nil
	}
	if err := u.makeParents(path.Dir(dir)); err != nil {
		return err
	}
	fd, err := u.root.resolve(path.Dir(u.at(dir)), unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Mkdirat(fd, path.Base(dir), 0o755)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return u.own(fd, path.Base(dir), &tar.Header{})
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if path.Join("/", h.Name) == "/" {
		return nil // dir itself is as it is
	}
	parent, base, err := u.parent(h.Name)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if h.Typeflag == tar.TypeDir {
		return u.directory(parent, base, h)
	}
	if err := clearAway(parent, base); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(parent, base, h, content)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return os.NewSyscallError("symlinkat", err)
		}
		return u.seal(parent, base, h)
	case tar.TypeLink:
		return u.link(parent, base, h)
	case tar.TypeFifo:
		if err := unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0); err != nil {
			return os.NewSyscallError("mknodat", err)
		}
		return u.seal(parent, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeXGlobalHeader:
		return nil
	}
	return fmt.Errorf("entries of type %q are unknown: %w", h.Typeflag, errdefs.ErrInvalidArgument)
}

// clearAway removes what has a name, unless it is a directory.
func clearAway(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR):
		return fmt.Errorf("cannot overwrite a directory with a file: %w", errdefs.ErrInvalidArgument)
	}
	return os.NewSyscallError("unlinkat", err)
}

func (u *unpacker) directory(parent int, base string, h *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("fstatat", err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil // it stays as it is
		}
		return fmt.Errorf("cannot overwrite a file with a directory: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	u.directories = append(u.directories, h)
	return u.own(parent, base, h)
}

func (u *unpacker) file(parent int, base string, h *tar.Header, content io.Reader) (err error) {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	uid, gid := u.owner(h)
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	times := []unix.Timeval{unix.NsecToTimeval(h.ModTime.UnixNano()), unix.NsecToTimeval(h.ModTime.UnixNano())}
	return os.NewSyscallError("futimes", unix.Futimes(fd, times))
}

// link makes another name of a file of the tar, or of the directory.
func (u *unpacker) link(parent int, base string, h *tar.Header) error {
	from, name, err := u.parent(h.Linkname)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return os.NewSyscallError("linkat", unix.Linkat(from, name, parent, base, 0))
}

// owner is whose an entry becomes.
func (u *unpacker) owner(h *tar.Header) (uid, gid int) {
	if !u.options.KeepOwner {
		return int(u.options.OwnerUID), int(u.options.OwnerGID)
	}
	return u.options.UID.of(uint32(h.Uid)), u.options.GID.of(uint32(h.Gid))
}

// own gives something its owner.
func (u *unpacker) own(parent int, base string, h *tar.Header) error {
	uid, gid := u.owner(h)
	return os.NewSyscallError("fchownat", unix.Fchownat(parent, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

// seal gives what is no regular file its owner, mode and time. The mode of a
// symbolic link means nothing.
func (u *unpacker) seal(parent int, base string, h *tar.Header) error {
	if err := u.own(parent, base, h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		// By a descriptor: fchmodat would follow a link that has come in its place.
		fd, err := ignoringEINTR(func() (int, error) {
			return unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return os.NewSyscallError("fstat", err)
		}
		if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(h.Mode&0o7777)); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	at := unix.NsecToTimespec(h.ModTime.UnixNano())
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(parent, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
}

// finishDirectories gives directories their modes and times, the innermost first:
// to write into one changes its time, and its mode might forbid it.
func (u *unpacker) finishDirectories() error {
	for _, h := range slices.Backward(u.directories) {
		parent, base, err := u.parent(h.Name)
		if err != nil {
			return err
		}
		err = u.seal(parent, base, h)
		if err := errors.Join(err, unix.Close(parent)); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
	return nil
}
