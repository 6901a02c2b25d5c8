package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is one overlayfs mount.
type overlay struct {
	lower       []string // highest first
	upper, work string   // "" for a mount that nobody can write to
	target      string
	label       string // SELinux label of all files, "" for none
	// durable: what programs sync is synced.
	durable bool
	// legacy forces the older of the two ways.
	legacy bool
	// scratch is where the older way may make symbolic links.
	scratch string
}

// errNewAPI means that the kernel cannot do it the new way.
var errNewAPI = errors.New("kernel has no fsconfig with lowerdir+")

// oldOverlay reports whether overlayfs is older than Linux 6.5. Until then
// fsconfig(2) takes anything from it, also lowerdir+, and the refusal comes only
// with the mount, as an EINVAL like any other and a line in the kernel's log. Of
// such a kernel an option that does not exist tells beforehand.
func oldOverlay() bool {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false // mountNew finds out
	}
	defer unix.Close(fsfd)
	return unix.FsconfigSetFlag(fsfd, "no_such_option") == nil
}

// mount tries the mount API of Linux 6.8, which takes layers one by one, then
// mount(2), which has one page for all of them. A kernel without volatile
// (before 5.10) mounts without.
func (o *overlay) mount() error {
	for _, volatile := range []bool{o.upper != "" && !o.durable, false} {
		err := errNewAPI
		if !o.legacy {
			err = o.mountNew(volatile)
		}
		if errors.Is(err, errNewAPI) {
			err = o.mountOld(volatile)
		}
		if err == nil || !volatile || !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return nil
}

func (o *overlay) mountNew(volatile bool) (err error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		// EPERM: an old container runtime's seccomp profile.
		return errNewAPI
	}
	if err != nil {
		return os.NewSyscallError("fsopen overlay", err)
	}
	defer unix.Close(fsfd)
	// Only what mountinfo shows; without it, "none".
	if err := unix.FsconfigSetString(fsfd, "source", "overlay"); err != nil {
		return explain(fsfd, "source", err)
	}
	if o.label != "" {
		if err := unix.FsconfigSetString(fsfd, "context", o.label); err != nil {
			return explain(fsfd, "context="+o.label, err)
		}
	}
	for i, dir := range o.lower {
		err := setPath(fsfd, "lowerdir+", dir)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return errNewAPI
		}
		if err != nil {
			return explain(fsfd, "lowerdir+="+dir, err)
		}
	}
	if o.upper != "" {
		if err := setPath(fsfd, "upperdir", o.upper); err != nil {
			return explain(fsfd, "upperdir="+o.upper, err)
		}
		if err := setPath(fsfd, "workdir", o.work); err != nil {
			return explain(fsfd, "workdir="+o.work, err)
		}
	}
	if volatile {
		if err := unix.FsconfigSetFlag(fsfd, "volatile"); err != nil {
			return explain(fsfd, "volatile", err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return explain(fsfd, "create", err)
	}
	attrs := 0
	if o.upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return explain(fsfd, "fsmount", err)
	}
	defer unix.Close(mfd)
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, o.target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: o.target, Err: err}
	}
	return nil
}

// maxFsconfigString is what fsconfig(2) takes as a value, with its NUL.
const maxFsconfigString = 256

// setPath sets an option that is a path. A long one is named by a descriptor,
// at the price of an unreadable line in mountinfo.
func setPath(fsfd int, key, path string) error {
	if len(path) < maxFsconfigString {
		return unix.FsconfigSetString(fsfd, key, path)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.FsconfigSetString(fsfd, key, "/proc/self/fd/"+strconv.Itoa(fd))
}

// explain adds what the kernel says about a failed step: reading the
// descriptor of fsopen gives its messages.
func explain(fsfd int, step string, err error) error {
	var buf [1024]byte
	text := ""
	for {
		n, readErr := unix.Read(fsfd, buf[:])
		if readErr != nil || n <= 0 {
			break
		}
		text += " (" + strings.TrimSpace(string(buf[:n])) + ")"
	}
	return fmt.Errorf("overlay %s: %w%s", step, err, text)
}

// mountOld uses mount(2). All options together must fit into a page, which 60
// full paths do not; so the layers get links of one to three characters in a
// directory of their own, and a thread that nobody else uses goes there.
func (o *overlay) mountOld(volatile bool) error {
	if err := os.RemoveAll(o.scratch); err != nil {
		return err
	}
	if err := os.Mkdir(o.scratch, 0o700); err != nil {
		return err
	}
	names := make([]string, len(o.lower))
	for i, dir := range o.lower {
		names[i] = strconv.FormatInt(int64(i), 36)
		if err := os.Symlink(dir, filepath.Join(o.scratch, names[i])); err != nil {
			return errors.Join(err, os.RemoveAll(o.scratch))
		}
	}
	options := "lowerdir=" + strings.Join(names, ":")
	flags := uintptr(unix.MS_RDONLY)
	if o.upper != "" {
		flags = 0
		for key, dir := range map[string]string{"upperdir": o.upper, "workdir": o.work} {
			if err := os.Symlink(dir, filepath.Join(o.scratch, key)); err != nil {
				return errors.Join(err, os.RemoveAll(o.scratch))
			}
			options += "," + key + "=" + key
		}
	}
	if volatile {
		options += ",volatile"
	}
	if o.label != "" {
		options += fmt.Sprintf(",context=%q", o.label) // levels have commas
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("overlay of %d layers does not fit into the options of mount(2), which Linux before 6.8 has to use", len(o.lower))
	}
	result := make(chan error)
	go func() {
		// Never unlocked: the thread has another working directory than the
		// rest of the process and must end with this goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(o.scratch)
		}
		if err == nil {
			err = unix.Mount("overlay", o.target, "overlay", flags, options)
			// Should this be the main thread, it outlives the goroutine.
			err = errors.Join(err, unix.Chdir("/"))
		}
		result <- err
	}()
	if err := <-result; err != nil {
		return errors.Join(&os.PathError{Op: "mount overlay on", Path: o.target, Err: err}, os.RemoveAll(o.scratch))
	}
	return os.RemoveAll(o.scratch)
}

// syncfs writes back the file system that f is on.
func syncfs(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: f.Name(), Err: err}
	}
	return nil
}
