package inside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Root is the root directory of a container, or of a volume.
type Root struct{ fd int }

// Open opens a root directory. The caller must Close it.
func Open(dir string) (*Root, error) {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Root{fd}, nil
}

// Close lets go of the root.
func (r *Root) Close() error { return unix.Close(r.fd) }

// maxLookups is how often a path is looked up that the container changes
// meanwhile: it could do so for ever.
const maxLookups = 1000

func ignoringEINTR(call func() (int, error)) (int, error) {
	for lookups := 0; ; {
		n, err := call()
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && lookups < maxLookups:
			lookups++ // a directory was renamed while openat2 looked for ".."
		default:
			return n, err
		}
	}
}

// resolve opens a path inside with O_PATH and more flags. Symbolic links lead
// nowhere outside, those of /proc nowhere at all.
func (r *Root) resolve(name string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := ignoringEINTR(func() (int, error) { return unix.Openat2(r.fd, path.Join("/", name), how) })
	if err != nil {
		return -1, classed(name, err)
	}
	return fd, nil
}

// classed gives the errors of a person's path their class.
func classed(name string, err error) error {
	wrapped := &os.PathError{Op: "open", Path: name, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("no such file or directory in the container: %s: %w", name, errdefs.ErrNotFound)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return errors.Join(errdefs.ErrInvalidArgument, wrapped)
	}
	return wrapped
}

// Stat is what a path is.
type Stat struct {
	// Name is the last part of the path, "." of the root itself.
	Name string
	Size int64
	Mode fs.FileMode
	Time time.Time
	// Link is where a symbolic link leads, as it is written in it.
	Link string
}

// Stat looks at a path; follow is for a symbolic link at its end.
func (r *Root) Stat(name string, follow bool) (Stat, error) {
	fd, err := r.resolve(name, nofollow(follow))
	if err != nil {
		return Stat{}, err
	}
	defer unix.Close(fd)
	st, err := statOf(fd)
	if err != nil {
		return Stat{}, err
	}
	st.Name = baseName(name)
	return st, nil
}

func nofollow(follow bool) uint64 {
	if follow {
		return 0
	}
	return unix.O_NOFOLLOW
}

// baseName is the name a path has in its tar.
func baseName(name string) string {
	if base := path.Base(path.Join("/", name)); base != "/" {
		return base
	}
	return "."
}

func statOf(fd int) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Stat{}, os.NewSyscallError("fstat", err)
	}
	s := Stat{Size: st.Size, Mode: fileMode(st.Mode), Time: time.Unix(st.Mtim.Unix())}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		link, err := readlink(fd)
		if err != nil {
			return Stat{}, err
		}
		s.Link = link
	}
	return s, nil
}

// fileMode is a kernel's mode in Go's words.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	for bit, meant := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= meant
		}
	}
	return m
}

// readlink reads a symbolic link that is open with O_PATH.
func readlink(fd int) (string, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buffer)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(buffer[:n]), nil
}

// reopen opens for reading what is open with O_PATH. It is no symbolic link.
func reopen(fd int, flags int) (*os.File, error) {
	name := "/proc/self/fd/" + strconv.Itoa(fd)
	again, err := ignoringEINTR(func() (int, error) { return unix.Open(name, flags|unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(again), name), nil
}
