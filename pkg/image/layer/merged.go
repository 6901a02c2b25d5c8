package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// ExportMerged writes the tree that overlayfs shows of a stack of layers,
// highest first, as a tar stream: without whiteouts and without a mount. As with
// Export, the highest may be in use.
func ExportMerged(ctx context.Context, stack []string, w io.Writer, o ExportOptions) error {
	m, err := openStack(stack)
	if err != nil {
		return err
	}
	e := &exporter{ctx: ctx, options: o, out: tar.NewWriter(w), links: map[inode]string{}}
	return errors.Join(e.merged(m, ""), e.out.Close(), m.close())
}

// merged is one directory in a stack: those of that name that are not hidden,
// highest first.
type merged []*os.File

func openStack(dirs []string) (merged, error) {
	var m merged
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(&os.PathError{Op: "open", Path: dir, Err: err}, m.close())
		}
		m = append(m, os.NewFile(uintptr(fd), dir))
	}
	return m, nil
}

func (m merged) close() error {
	var errs []error
	for _, d := range m {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// mergedEntry is what a directory shows under a name.
type mergedEntry struct {
	parent *os.File
	stat   unix.Stat_t
	// dirs are those that make it up, where it is a directory.
	dirs   []*os.File
	hidden bool // a whiteout
	closed bool // what is further down does not show
}

// entries lists what is in a directory.
func (m merged) entries() (map[string]*mergedEntry, error) {
	all := map[string]*mergedEntry{}
	for _, d := range m {
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		names, err := d.Readdirnames(-1)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if e := all[n]; e != nil && e.closed {
				continue
			}
			var st unix.Stat_t
			err := unix.Fstatat(int(d.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW)
			if errors.Is(err, unix.ENOENT) {
				continue // gone meanwhile
			}
			if err != nil {
				return nil, &os.PathError{Op: "stat", Path: path.Join(d.Name(), n), Err: err}
			}
			isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
			e := all[n]
			if e == nil {
				e = &mergedEntry{parent: d, stat: st, hidden: isWhiteout(&st)}
				all[n] = e
			} else if !isDir {
				e.closed = true
				continue
			}
			e.dirs = append(e.dirs, d)
			e.closed = !isDir
		}
	}
	return all, nil
}

// child opens a directory in the stack.
func (m merged) child(e *mergedEntry, base string) (merged, error) {
	var c merged
	for _, parent := range e.dirs {
		d, err := openEntry(parent, base, path.Join(parent.Name(), base), unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) && len(c) == 0 {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c = append(c, d)
		opaque, err := isOpaque(int(d.Fd()))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", d.Name(), err), c.close())
		}
		if opaque {
			break
		}
	}
	return c, nil
}

// merged writes a directory of a stack and all below it.
func (e *exporter) merged(m merged, name string) error {
	if len(m) == 0 {
		return nil
	}
	if err := e.directoryHeader(m[0], name); err != nil {
		return err
	}
	entries, err := m.entries()
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(entries)) {
		if err := e.ctx.Err(); err != nil {
			return context.Cause(e.ctx)
		}
		entry, full := entries[n], path.Join(name, n)
		if entry.hidden {
			continue
		}
		if entry.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := e.entry(entry.parent, n, full); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if e.options.Skip != nil && e.options.Skip(full, &entry.stat) {
			continue
		}
		c, err := m.child(entry, n)
		if err != nil {
			return err
		}
		if err := errors.Join(e.merged(c, full), c.close()); err != nil {
			return err
		}
	}
	return nil
}

// ChangeKind says what happened to a path.
type ChangeKind byte

// The kinds of changes, in docker's letters.
const (
	Added   ChangeKind = 'A'
	Changed ChangeKind = 'C'
	Deleted ChangeKind = 'D'
)

// Change is one path that a writable layer has changed.
type Change struct {
	Kind ChangeKind
	// Path begins with a slash.
	Path string
}

// Changes lists what upper, a layer in overlayfs form, changes in the stack
// below it, highest first, sorted by path. A directory in which something was
// changed is changed itself.
func Changes(ctx context.Context, upper string, stack []string, skip func(name string, info *unix.Stat_t) bool) ([]Change, error) {
	up, err := openStack([]string{upper})
	if err != nil {
		return nil, err
	}
	lower, err := openStack(stack)
	if err != nil {
		return nil, errors.Join(err, up.close())
	}
	c := &comparison{ctx: ctx, skip: skip}
	err = errors.Join(c.directory(up[0], lower, ""), up.close(), lower.close())
	return c.changes, err
}

// comparison is one Changes under way.
type comparison struct {
	ctx     context.Context //nolint:containedctx // the life of a comparison is that of one call
	skip    func(string, *unix.Stat_t) bool
	changes []Change
}

func (c *comparison) add(kind ChangeKind, name string) {
	c.changes = append(c.changes, Change{kind, "/" + name})
}

func (c *comparison) directory(up *os.File, lower merged, name string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	upper, err := merged{up}.entries()
	if err != nil {
		return err
	}
	below, err := lower.entries()
	if err != nil {
		return err
	}
	opaque, err := isOpaque(int(up.Fd()))
	if err != nil {
		return fmt.Errorf("%s: %w", up.Name(), err)
	}
	names := slices.Collect(maps.Keys(upper))
	if opaque {
		for n := range below {
			if upper[n] == nil {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	for _, n := range names {
		was := below[n]
		if was != nil && was.hidden {
			was = nil
		}
		if err := c.entry(up, lower, n, path.Join(name, n), upper[n], was); err != nil {
			return err
		}
	}
	return nil
}

// entry compares one name: is in the writable layer, was below it; either may be
// nil.
func (c *comparison) entry(up *os.File, lower merged, base, name string, is, was *mergedEntry) error {
	if is == nil || is.hidden {
		if was != nil {
			c.add(Deleted, name)
		}
		return nil
	}
	if was == nil && c.skip != nil && c.skip(name, &is.stat) {
		return nil
	}
	kind := Added
	if was != nil {
		kind = Changed
	}
	c.add(kind, name)
	if is.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	d, err := openEntry(up, base, name, unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var below merged
	if was != nil && was.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		if below, err = lower.child(was, base); err != nil {
			return errors.Join(err, d.Close())
		}
	}
	return errors.Join(c.directory(d, below, name), below.close(), d.Close())
}
