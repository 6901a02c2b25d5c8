package linux

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxLooks is how many files are looked at one by one for a mount, rather than
// in the table of all mounts: to read that takes milliseconds on a node with
// many pods, and a record has a handful of files.
const maxLooks = 200

// namesAtOnce is how many names of a directory are read at once.
const namesAtOnce = 1024

// errTooMany is why a walk does not tell about mounts.
var errTooMany = errors.New("too many files to look at")

// MountBelow returns something that is mounted at path or below it, in this
// mount namespace; "" if nothing is.
func MountBelow(path string) (string, error) {
	looks := maxLooks
	point, err := lookForMount(unix.AT_FDCWD, path, path, &looks)
	if !errors.Is(err, errTooMany) {
		return point, err
	}
	points, err := MountPoints(path)
	if len(points) == 0 {
		return "", err
	}
	return points[0], err
}

// lookForMount looks at name in the directory at, whose path is only for the
// answer, and what is below it.
func lookForMount(at int, name, path string, looks *int) (string, error) {
	if *looks--; *looks < 0 {
		return "", errTooMany
	}
	st, err := statMount(at, name, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return path, nil
	case st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return "", errTooMany // before Linux 5.8
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return "", nil
	}
	dir, err := openDir(at, name, path, 0)
	if err != nil {
		return "", ignoreNotExist(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxLooks + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if len(names) > *looks {
		return "", errTooMany
	}
	for _, n := range names {
		if point, err := lookForMount(int(dir.Fd()), n, filepath.Join(path, n), looks); point != "" || err != nil {
			return point, err
		}
	}
	return "", nil
}

func statMount(at int, name, path string) (*unix.Statx_t, error) {
	st := &unix.Statx_t{}
	err := retry(func() error {
		return unix.Statx(at, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, st)
	})
	if err != nil {
		return nil, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st, nil
}

// openDir opens a directory that is no symbolic link. resolve says what else
// there must not be on the way.
func openDir(at int, name, path string, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat2(at, name, &how)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// RemoveAll deletes a directory tree, but nothing that is mounted in it, nor
// below that: to delete through a live mount has cost other runtimes the data of
// images and volumes. It ends with EBUSY where it meets one. It is no error if
// path does not exist.
func RemoveAll(path string) error {
	st, err := statMount(unix.AT_FDCWD, path, path)
	if err != nil {
		return ignoreNotExist(err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return stillMounted(path)
	}
	parent, name := filepath.Split(filepath.Clean(path))
	if parent == "" {
		parent = "."
	}
	dir, err := os.Open(parent)
	if err != nil {
		return ignoreNotExist(err)
	}
	defer dir.Close()
	return (&removal{}).at(int(dir.Fd()), name, path, 0)
}

func stillMounted(path string) error {
	return fmt.Errorf("remove %s: it is a mount point: %w", path, unix.EBUSY)
}

// maxNested is how many directories below one another are open at once. What
// lies deeper is first moved up: a container nests directories as deep as it
// likes, and neither descriptors nor memory may be a matter of that.
const maxNested = 64

// removal is one RemoveAll.
type removal struct {
	top *os.File // the directory itself, once it is open
}

// at deletes name in the directory at. What a mount covers the kernel does not
// delete, whether file or directory, and openat2 does not open.
func (r *removal) at(at int, name, path string, depth int) error {
	err := unlink(at, name, path, 0)
	if err == nil || !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	err = unlink(at, name, path, unix.AT_REMOVEDIR)
	if err == nil || !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if depth == maxNested && r.moveUp(at, name) == nil {
		return nil // its turn comes
	}
	dir, err := openDir(at, name, path, unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH)
	if errors.Is(err, unix.EXDEV) {
		return stillMounted(path)
	}
	if err != nil {
		return ignoreNotExist(err)
	}
	defer dir.Close()
	if depth == 0 {
		r.top = dir
	}
	if err := r.contents(dir, path, depth); err != nil {
		return err
	}
	return unlink(at, name, path, unix.AT_REMOVEDIR)
}

// contents empties a directory. It looks again from the start after each round,
// so that it finds what was moved up meanwhile.
func (r *removal) contents(dir *os.File, path string, depth int) error {
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var errs []error
		for _, n := range names {
			errs = append(errs, r.at(int(dir.Fd()), n, filepath.Join(path, n), depth+1))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		// Where a file system goes on after deletions is its own business.
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// moveUp makes a directory one of those in the directory being deleted, under a
// name that nothing has.
func (r *removal) moveUp(at int, name string) error {
	return retry(func() error {
		return unix.Renameat2(at, name, int(r.top.Fd()), ".deep-"+rand.Text(), unix.RENAME_NOREPLACE)
	})
}

func unlink(at int, name, path string, flags int) error {
	err := retry(func() error { return unix.Unlinkat(at, name, flags) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "remove", Path: path, Err: err}
}
