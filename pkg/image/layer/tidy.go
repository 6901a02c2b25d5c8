package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tidy makes the writable layer of an overlay fit to become a layer that others
// are stacked on, or that is stacked on others.
type Tidy struct {
	// Lower are the directories of the overlay's layers, highest first.
	Lower []string
	// Clamp, unless zero, is the latest time that files may have.
	Clamp time.Time
}

// Attributes that overlayfs gives to directories of an upper layer.
const (
	xattrOpaque   = opaqueXattr
	xattrRedirect = "trusted.overlay.redirect"
	xattrMetacopy = "trusted.overlay.metacopy"
)

// Run goes through dir, which nobody else may use, and adds up what is in it.
//
// The kernel marks a new directory opaque although there is nothing below it to
// hide: in another stack it would hide something. A directory that was renamed
// by reference, or a file of which only the metadata was copied, has its content
// elsewhere and is an error.
func (t *Tidy) Run(ctx context.Context, dir string) (Usage, error) {
	var usage Usage
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		usage.Inodes++
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		usage.Bytes += st.Blocks * 512
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := t.check(path, name, &st); err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		return t.clamp(path, &st)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		var gone bool
		if gone, err = t.leave(dir, dirs[i]); gone {
			usage.Inodes--
		}
	}
	return usage, err
}

// leave finishes a directory after all that is in it. One that was copied up and
// then not changed goes: runtimes make mount points, and take them away again.
func (t *Tidy) leave(root, path string) (gone bool, err error) {
	var st, parent unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	name, err := filepath.Rel(root, path)
	if err != nil {
		return false, err
	}
	if name == "." || !t.unchanged(path, name, &st) {
		return false, t.clamp(path, &st)
	}
	if err := unix.Lstat(filepath.Dir(path), &parent); err != nil {
		return false, &os.PathError{Op: "lstat", Path: filepath.Dir(path), Err: err}
	}
	if err := unix.Rmdir(path); err != nil {
		return false, t.clamp(path, &st) // there is something in it
	}
	return true, setTime(filepath.Dir(path), time.Unix(parent.Mtim.Unix()))
}

// unchanged reports whether the highest layer below that has a directory of this
// name has it as it is.
func (t *Tidy) unchanged(path, name string, st *unix.Stat_t) bool {
	if !onlyOverlay(path) {
		return false
	}
	for _, layer := range t.Lower {
		found, hidden := lookBelow(layer, name)
		if hidden {
			return false
		}
		if !found {
			continue
		}
		var was unix.Stat_t
		err := unix.Lstat(filepath.Join(layer, name), &was)
		return err == nil && was.Mode == st.Mode && was.Uid == st.Uid && was.Gid == st.Gid && was.Mtim == st.Mtim
	}
	return false
}

// onlyOverlay reports whether all attributes are overlayfs's own, and none says
// that the directory hides something.
func onlyOverlay(path string) bool {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return false
	}
	for _, name := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		if !strings.HasPrefix(name, "trusted.overlay.") || name == xattrOpaque {
			return false
		}
	}
	return true
}

// check looks at what overlayfs has noted on a file or directory.
func (t *Tidy) check(path, name string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if hasXattr(path, xattrRedirect) {
			return fmt.Errorf("%s: directory was renamed by reference: switch redirect_dir of overlayfs off", name)
		}
		if name != "." && hasXattr(path, xattrOpaque) && !t.below(name) {
			return os.NewSyscallError("removexattr", unix.Lremovexattr(path, xattrOpaque))
		}
	case unix.S_IFREG:
		if hasXattr(path, xattrMetacopy) {
			return fmt.Errorf("%s: only the metadata of the file was copied: switch metacopy of overlayfs off", name)
		}
	}
	return nil
}

func hasXattr(path, name string) bool {
	_, err := unix.Lgetxattr(path, name, nil)
	return err == nil || errors.Is(err, unix.ERANGE)
}

// below reports whether the layers below have a directory of this name.
func (t *Tidy) below(name string) bool {
	for _, layer := range t.Lower {
		found, hidden := lookBelow(layer, name)
		if found || hidden {
			return found
		}
	}
	return false
}

// lookBelow looks for a directory in one layer. hidden: the layer hides what
// those below it have there.
func lookBelow(layer, name string) (found, hidden bool) {
	path := layer
	for part := range strings.SplitSeq(name, "/") {
		parent := path
		path += "/" + part
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return false, hasXattr(parent, xattrOpaque)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return false, true
		}
	}
	return true, false
}

// clamp makes a file no younger than it may be.
func (t *Tidy) clamp(path string, st *unix.Stat_t) error {
	if t.Clamp.IsZero() || !time.Unix(st.Mtim.Unix()).After(t.Clamp) {
		return nil
	}
	return setTime(path, t.Clamp)
}

func setTime(path string, to time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(to.UnixNano()), unix.NsecToTimespec(to.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set time of", Path: path, Err: err}
	}
	return nil
}
