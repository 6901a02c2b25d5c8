package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxOpen is how many directories stay open between entries. Tar files
	// are written depth first, so more would hardly be hit more often.
	maxOpen = 64
	// maxSteps bounds the resolution of one path with symlinks in it. The
	// kernel stops after 40 links, but each may be 4 KiB of "a/../a/../".
	maxSteps = 4096
	maxLinks = 40
)

// directory is an open directory of the layer.
type directory struct {
	fd    int
	path  string // from the layer's root, without symlinks; "" is the root
	times [2]unix.Timespec
	gid   int // that a new file may get, depending on setgid and mount options
	// dirty says that something was put in or removed, which changed the
	// directory's time, so that close has to set it back.
	dirty bool
}

func (d *directory) close(restore bool) error {
	var err error
	if restore && d.dirty {
		// "." because utimensat takes an empty path from Linux 5.8 on only.
		err = os.NewSyscallError("utimensat", unix.UtimesNanoAt(d.fd, ".", d.times[:], 0))
	}
	return errors.Join(err, unix.Close(d.fd))
}

// dirs resolves paths to directories inside the root, and keeps the recent
// ones open. It is the only place that gives the kernel a path with more than
// one component.
type dirs struct {
	root     *directory
	maxDepth int
	open     map[string]*directory // by directory.path
	alias    map[string]string     // from a path through symlinks to directory.path
	stale    bool                  // a directory or symlink went away: begin has to empty the maps
}

// newDirs takes ownership of root.
func newDirs(root *directory, maxDepth int) *dirs {
	return &dirs{
		root:     root,
		maxDepth: maxDepth,
		open:     map[string]*directory{},
		alias:    map[string]string{},
	}
}

// begin makes room before an entry. Directories handed out stay open until the
// next begin, so an entry can hold as many as it needs.
func (d *dirs) begin() error {
	if d.stale || len(d.open) >= maxOpen || len(d.alias) >= maxOpen {
		return d.flush(true)
	}
	return nil
}

// flush closes all directories but the root; with restore it sets the times of
// those that changed.
func (d *dirs) flush(restore bool) error {
	var errs []error
	for _, dir := range d.open {
		errs = append(errs, dir.close(restore))
	}
	clear(d.open)
	clear(d.alias)
	d.stale = false
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close directories: %w", err)
	}
	return nil
}

func (d *dirs) close(restore bool) error {
	return errors.Join(d.flush(restore), d.root.close(restore))
}

// invalidate must be called when a directory or a symlink was removed: paths
// that led through it may now lead elsewhere. Nothing else can change where a
// path leads that led to a directory.
func (d *dirs) invalidate() { d.stale = true }

// find returns the directory at path p, as the layer itself would see it. If
// it or a parent is missing, makeMissing is asked to create path p in its
// parent directory fd; without makeMissing that is ENOENT.
func (d *dirs) find(p string, makeMissing func(fd int, p string) error) (*directory, error) {
	if p == "" {
		return d.root, nil
	}
	if !d.stale {
		if dir := d.open[p]; dir != nil {
			return dir, nil
		}
		if dir := d.open[d.alias[p]]; dir != nil {
			return dir, nil
		}
	}
	fd, err := openBeneath(d.root.fd, p)
	if err == nil {
		return d.keep(fd, p)
	}
	// ENOENT: something is missing; ELOOP: a symlink is in the way; ENOTDIR:
	// a file is, or a whiteout.
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("open parent directory: %w", err)
	}
	w := walk{dirs: d, fd: -1, makeMissing: makeMissing}
	if err := w.run(p); err != nil {
		return nil, errors.Join(fmt.Errorf("resolve parent directory: %w", err), w.close())
	}
	if w.path == "" {
		return d.root, w.close()
	}
	if w.path != p {
		d.alias[p] = w.path
		if dir := d.open[w.path]; dir != nil && !d.stale {
			return dir, w.close()
		}
	}
	return d.keep(w.fd, w.path)
}

// child opens the directory base in parent, which must not be a symlink.
func (d *dirs) child(parent *directory, base string) (*directory, error) {
	p := joinPath(parent.path, base)
	if dir := d.open[p]; dir != nil && !d.stale {
		return dir, nil
	}
	fd, err := openDirAt(parent.fd, base)
	if err != nil {
		return nil, err
	}
	return d.keep(fd, p)
}

// keep takes ownership of fd.
func (d *dirs) keep(fd int, p string) (*directory, error) {
	st, err := fstat(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	dir := &directory{fd: fd, path: p, gid: int(st.Gid), times: [2]unix.Timespec{st.Atim, st.Mtim}}
	if old := d.open[p]; old != nil { // of a directory that was removed meanwhile
		if err := old.close(false); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	d.open[p] = dir
	return dir, nil
}

// walk resolves a path one component at a time, as the kernel would with the
// layer's root as "/". It reads symlinks itself, so that the kernel has none to
// follow and where it stands is known by name.
type walk struct {
	dirs        *dirs
	fd          int    // of the directory it stands in, owned; -1 is the root
	path        string // of the same, without symlinks
	depth       int
	makeMissing func(fd int, p string) error
}

func (w *walk) run(p string) error {
	todo, links := strings.Split(p, "/"), 0
	for steps := 0; len(todo) > 0; steps++ {
		if steps > maxSteps {
			return fmt.Errorf("path has more than %d steps: %w", maxSteps, unix.ELOOP)
		}
		component := todo[0]
		todo = todo[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			parent, _ := splitPath(w.path) // true because w.path has no symlinks
			if err := w.jump(parent); err != nil {
				return err
			}
			continue
		}
		target, err := w.step(component)
		if err != nil {
			return fmt.Errorf("%s: %w", quote(joinPath(w.path, component)), err)
		}
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			return unix.ELOOP
		}
		if target[0] == '/' {
			if err := w.jump(""); err != nil {
				return err
			}
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return nil
}

// step enters the directory component, or returns what it points to if it is a
// symlink.
func (w *walk) step(component string) (target string, err error) {
	fd, err := openDirAt(w.here(), component)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if target, err = readlinkat(w.here(), component); err == nil {
			return target, nil // never empty: symlink(2) refuses that
		}
		if errors.Is(err, unix.EINVAL) { // it is no symlink
			err = unix.ENOTDIR
		}
	}
	if (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) && w.makeMissing != nil {
		if err := w.makeMissing(w.here(), joinPath(w.path, component)); err != nil {
			return "", err
		}
		fd, err = openDirAt(w.here(), component)
	}
	if err != nil {
		return "", err
	}
	p := joinPath(w.path, component)
	if w.depth++; w.depth > w.dirs.maxDepth || len(p) > maxPath {
		return "", errors.Join(unix.ENAMETOOLONG, unix.Close(fd))
	}
	w.path = p
	return "", w.move(fd)
}

// jump goes to the directory with the symlink-free path p.
func (w *walk) jump(p string) error {
	if p == "" {
		w.path, w.depth = "", 0
		return w.move(-1)
	}
	fd, err := openBeneath(w.dirs.root.fd, p)
	if err != nil {
		return err
	}
	w.path, w.depth = p, strings.Count(p, "/")+1
	return w.move(fd)
}

func (w *walk) here() int {
	if w.fd < 0 {
		return w.dirs.root.fd
	}
	return w.fd
}

func (w *walk) move(fd int) error {
	err := w.close()
	w.fd = fd
	return err
}

func (w *walk) close() error {
	if w.fd < 0 {
		return nil
	}
	fd := w.fd
	w.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}
