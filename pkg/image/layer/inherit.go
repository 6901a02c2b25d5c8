package layer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxImplied      = 4096
	maxImpliedBytes = 256 << 10
	rootPath        = "." // in lists of implied directories
)

// imply notes that the directory p was made for what lies in it.
func (a *applier) imply(p string) {
	if len(a.implied) >= maxImplied || a.impliedBytes+len(p) > maxImpliedBytes {
		return
	}
	if a.implied == nil {
		a.implied = map[string]bool{}
	}
	a.implied[p] = true
	a.impliedBytes += len(p)
}

// impliedPaths lists the implied directories that are still there. One that was
// removed, or lay in what was removed, has been listed since or is gone.
func (a *applier) impliedPaths() ([]string, error) {
	var paths []string
	if a.root == nil {
		paths = append(paths, rootPath)
	}
	for _, p := range slices.Sorted(maps.Keys(a.implied)) {
		fd, err := openBeneath(a.dirs.root.fd, p)
		switch {
		case err == nil:
			paths = append(paths, p)
			_ = unix.Close(fd) // was only looked at
		case !blocked(err) && !errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("look for directory %s: %w", quote(p), err)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// Stacked is one layer of an image, for Inherit.
type Stacked struct {
	// Dir is where Apply has unpacked the layer.
	Dir string
	// Implied is what Apply has said of it.
	Implied []string
	// Fixed says that the layer is in use and only looked at.
	Fixed bool
}

// Inherit gives the implied directories of a stack of layers, lowest first,
// mode, owner, times and extended attributes of the directory that would be
// seen there with the lower layers alone. A directory that is itself implied
// is not taken for an example. Where there is none, or something that is no
// directory, or a whiteout hides it, the directory stays as it is.
//
// It goes through the layers once, from directory to directory, and follows no
// symlink. Nobody else may change them meanwhile.
func Inherit(ctx context.Context, stack []Stacked) error {
	root, wanted := &inheritNode{}, false
	for _, l := range stack {
		if l.Fixed {
			continue
		}
		for _, p := range l.Implied {
			if err := root.insert(p); err != nil {
				return err
			}
			wanted = true
		}
	}
	if !wanted {
		return nil
	}
	for _, l := range stack {
		if err := root.inherit(ctx, l); err != nil {
			return fmt.Errorf("inherit metadata in layer %s: %w", l.Dir, err)
		}
	}
	return nil
}

// inheritNode is a directory of the merged layers so far.
type inheritNode struct {
	children map[string]*inheritNode
	// meta is what an implied directory of the next layer gets, nil for what
	// it has.
	meta *meta
}

func (n *inheritNode) insert(p string) error {
	if p == rootPath {
		return nil
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." {
			return fmt.Errorf("directory %s: %w", quote(p), invalidf("path is not clean"))
		}
		child := n.children[name]
		if child == nil {
			child = &inheritNode{}
			if n.children == nil {
				n.children = map[string]*inheritNode{}
			}
			n.children[name] = child
		}
		n = child
	}
	return nil
}

// hide makes what the layers below have here not count any more.
func (n *inheritNode) hide() {
	n.meta = nil
	for _, child := range n.children {
		child.hide()
	}
}

func (n *inheritNode) inherit(ctx context.Context, l Stacked) error {
	v := inheritVisit{ctx: ctx, fixed: l.Fixed, implied: make(map[string]bool, len(l.Implied))}
	for _, p := range l.Implied {
		v.implied[p] = true
	}
	fd, err := openDirAt(unix.AT_FDCWD, l.Dir)
	if err != nil {
		return err
	}
	return errors.Join(v.visit(n, fd, rootPath, false), os.NewSyscallError("close", unix.Close(fd)))
}

// inheritVisit is the way through one layer.
type inheritVisit struct {
	ctx     context.Context //nolint:containedctx // for the length of one call
	fixed   bool
	implied map[string]bool
}

// visit is at the directory p of the layer, open as fd. hidden says that the
// layers below are hidden there.
func (v *inheritVisit) visit(n *inheritNode, fd int, p string, hidden bool) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	if hidden {
		n.meta = nil
	}
	switch {
	case !v.implied[p]:
		m, err := metaOfDir(fd)
		if err != nil {
			return fmt.Errorf("directory %s: %w", quote(p), err)
		}
		n.meta = &m
	case n.meta != nil && !v.fixed:
		if err := n.meta.setDir(fd); err != nil {
			return fmt.Errorf("directory %s: %w", quote(p), err)
		}
	}
	if len(n.children) == 0 {
		return nil
	}
	opaque, err := isOpaque(fd)
	if err != nil {
		return fmt.Errorf("directory %s: %w", quote(p), err)
	}
	hidden = hidden || opaque
	if p == rootPath {
		p = ""
	}
	for name, child := range n.children {
		if err := v.child(child, fd, joinPath(p, name), hidden); err != nil {
			return err
		}
	}
	return nil
}

func (v *inheritVisit) child(n *inheritNode, parent int, p string, hidden bool) error {
	_, name := splitPath(p)
	fd, err := openDirAt(parent, name)
	switch {
	case err == nil:
		return errors.Join(v.visit(n, fd, p, hidden), os.NewSyscallError("close", unix.Close(fd)))
	case blocked(err) || hidden && errors.Is(err, unix.ENOENT):
		n.hide()
		return nil
	case errors.Is(err, unix.ENOENT):
		return nil
	default:
		return fmt.Errorf("directory %s: %w", quote(p), err)
	}
}

// blocked says that something is where a directory was looked for: a file, a
// whiteout or a symlink.
func blocked(err error) bool { return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) }

// isOpaque tells whether a directory hides those below it.
func isOpaque(fd int) (bool, error) {
	var value [1]byte
	n, err := unix.Fgetxattr(fd, opaqueXattr, value[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	return n == 1 && value[0] == 'y', os.NewSyscallError("fgetxattr", err)
}

// metaOfDir reads what metaOf takes from a tar.
func metaOfDir(fd int) (meta, error) {
	st, err := fstat(fd)
	if err != nil {
		return meta{}, err
	}
	m := meta{uid: int(st.Uid), gid: int(st.Gid), mode: st.Mode & 0o7777, times: [2]unix.Timespec{st.Atim, st.Mtim}}
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return m, nil
	}
	if err != nil {
		return meta{}, os.NewSyscallError("flistxattr", err)
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(fd, names); err != nil {
		return meta{}, os.NewSyscallError("flistxattr", err)
	}
	for name := range strings.SplitSeq(string(names[:size]), "\x00") {
		if !takeXattr(name) || name == capabilityXattr {
			continue
		}
		value := make([]byte, maxXattr)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return meta{}, fmt.Errorf("read extended attribute %s: %w", quote(name), os.NewSyscallError("fgetxattr", err))
		}
		m.xattrs = append(m.xattrs, xattr{name, string(value[:n])})
	}
	return m, nil
}

// maxXattr is the kernel's XATTR_SIZE_MAX.
const maxXattr = 64 << 10

// setDir gives an open directory all of the metadata.
func (m *meta) setDir(fd int) error {
	if err := os.NewSyscallError("fchown", unix.Fchown(fd, m.uid, m.gid)); err != nil {
		return err
	}
	if err := m.setFd(fd, false); err != nil {
		return err
	}
	// "." because utimensat takes an empty path from Linux 5.8 on only.
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, ".", m.times[:], 0))
}
