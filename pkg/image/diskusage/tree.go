package diskusage

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDirs is how many directories of a layer are remembered; a layer with
	// more is walked in full each time.
	maxDirs = 50_000
	// settled is how long ago a directory must have been changed for a second
	// change to be seen: the clock of file systems has ticks.
	settled = 100 * time.Millisecond
	// maxPath is the longest path given to the kernel at once.
	maxPath = 4000
	// readNames is how many entries of a directory are read at once.
	readNames = 512
)

// tree is what a walk remembers of a layer: its directories.
type tree struct{ root *node }

// node is a directory.
type node struct {
	parent *node
	name   string

	ino   uint64
	ctime unix.Timespec // zero: cannot be relied on
	usage Usage         // itself and the files in it that have one link
	links []link
	below []*node
}

// link is a name of a file that has several.
type link struct {
	ino   uint64
	bytes int64
}

// walk is one look at a layer.
type walk struct {
	ctx   context.Context //nolint:containedctx // of one call
	root  int
	pace  *pace
	dirs  int
	stack []visit
	// relinked: a file has got more names, which directories that were not
	// read again do not know of.
	relinked bool
}

// visit is a directory to look at, and what it was before.
type visit struct{ at, before *node }

// measure sums up a layer. With a tree only what has changed in it is read
// again; files that grew in place are not noticed then. The tree returned is nil
// if there is none to go on from.
func measure(ctx context.Context, dir string, before *tree, p *pace) (*tree, Usage, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, Usage{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	w := &walk{ctx: ctx, root: fd, pace: p}
	root := &node{name: "."}
	first := visit{at: root}
	if before != nil {
		first.before = before.root
	}
	w.stack = append(w.stack, first)
	var usage Usage
	seen := map[uint64]bool{}
	for len(w.stack) > 0 {
		v := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		if err := w.look(v); err != nil {
			return nil, Usage{}, err
		}
		usage.Bytes += v.at.usage.Bytes
		usage.Inodes += v.at.usage.Inodes
		for _, l := range v.at.links {
			if !seen[l.ino] {
				seen[l.ino] = true
				usage.Bytes += l.bytes
				usage.Inodes++
			}
		}
		if w.dirs > maxDirs {
			v.at.below = nil // no tree will be kept
		}
	}
	if w.dirs > maxDirs || w.relinked {
		return nil, usage, nil
	}
	return &tree{root: root}, usage, nil
}

// path of a directory below the root.
func (n *node) path() string {
	var names []string
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	if len(names) == 0 {
		return "."
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return strings.Join(names, "/")
}

// look fills in one directory and puts those in it on the stack.
func (w *walk) look(v visit) error {
	w.dirs++
	if err := w.pace.step(w.ctx); err != nil {
		return err
	}
	fd, err := openBelow(w.root, v.at.path())
	if vanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), v.at.name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	n, before := v.at, v.before
	n.ino = st.Ino
	if before != nil && before.ino == st.Ino && before.ctime == st.Ctim && st.Ctim != (unix.Timespec{}) {
		n.ctime, n.usage, n.links = before.ctime, before.usage, before.links
		for _, b := range before.below {
			w.push(n, b.name, b)
		}
		return nil
	}
	if time.Since(time.Unix(st.Ctim.Unix())) > settled {
		n.ctime = st.Ctim
	}
	n.usage = Usage{Bytes: st.Blocks * 512, Inodes: 1}
	return w.read(f, fd, n, before)
}

// push puts a directory on the stack.
func (w *walk) push(parent *node, name string, before *node) {
	child := &node{parent: parent, name: name}
	parent.below = append(parent.below, child)
	w.stack = append(w.stack, visit{child, before})
}

// read goes through the entries of a directory.
func (w *walk) read(f *os.File, fd int, n, before *node) error {
	known := map[string]*node{}
	linked := map[uint64]bool{}
	if before != nil {
		for _, b := range before.below {
			known[b.name] = b
		}
		for _, l := range before.links {
			linked[l.ino] = true
		}
	}
	for {
		names, err := f.Readdirnames(readNames)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.pace.step(w.ctx); err != nil {
			return err
		}
		for _, name := range names {
			var st unix.Stat_t
			err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			switch {
			case vanished(err):
			case err != nil:
				return &os.PathError{Op: "stat", Path: name, Err: err}
			case st.Mode&unix.S_IFMT == unix.S_IFDIR:
				w.push(n, name, known[name])
			case st.Nlink > 1:
				n.links = append(n.links, link{st.Ino, st.Blocks * 512})
				if before != nil && !linked[st.Ino] {
					w.relinked = true
				}
			default:
				n.usage.Bytes += st.Blocks * 512
				n.usage.Inodes++
			}
		}
	}
}

// openBelow opens a directory below another, following no symbolic link on the
// way. A path of any length will do.
func openBelow(root int, path string) (fd int, err error) {
	at := root
	for {
		part := path
		if len(part) > maxPath {
			part = part[:strings.LastIndexByte(part[:maxPath], '/')]
		}
		fd, err := openDir(at, part)
		if at != root {
			_ = unix.Close(at)
		}
		if err != nil || len(part) == len(path) {
			return fd, err
		}
		at, path = fd, path[len(part)+1:]
	}
}

func openDir(at int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOATIME,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(at, path, &how)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.ENOSYS): // Linux before 5.6
			return openSteps(at, path)
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN): // a rename got in the way
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// openSteps is openDir without openat2.
func openSteps(root int, path string) (int, error) {
	at := root
	for name := range strings.SplitSeq(path, "/") {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if at != root {
			_ = unix.Close(at)
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		at = fd
	}
	return at, nil
}

// vanished lets a walk go on where the container was quicker: what was there
// is gone, or something else.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV)
}

// pace keeps a walk from taking a processor for itself: after each slice of
// work it rests several times as long.
type pace struct {
	began time.Time // of the slice
	busy  time.Duration
}

const (
	slice     = 10 * time.Millisecond
	restShare = 3
)

// step is called now and then.
func (p *pace) step(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	worked := time.Since(p.began)
	if worked < slice {
		return nil
	}
	p.busy += worked
	t := time.NewTimer(restShare * worked)
	defer t.Stop()
	select {
	case <-t.C:
		p.began = time.Now()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spent is how long the work has taken, without rests.
func (p *pace) spent() time.Duration { return p.busy + time.Since(p.began) }
