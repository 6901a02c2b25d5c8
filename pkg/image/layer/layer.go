package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Defaults of Options. They are far beyond any honest image and exist so that
// a hostile one ends with an error and not with the node's disk or memory.
const (
	DefaultMaxBytes       = 256 << 30
	DefaultMaxEntries     = 4 << 20
	DefaultMaxDepth       = 256
	DefaultMaxHeaderBytes = 4 << 20
	DefaultMaxTrailer     = 16 << 20
)

// Options bounds one layer. A field that is zero has its default.
type Options struct {
	// MaxBytes is how much file data all entries together may hold, holes
	// included: reading a hole costs time even though it costs no disk.
	MaxBytes int64
	// MaxEntries is how many tar entries there may be, plus directories made
	// because entries lie in them.
	MaxEntries int64
	// MaxDepth is how many components a path may have.
	MaxDepth int
	// MaxHeaderBytes is how much of the stream a single entry's headers (PAX
	// records, long names, sparse maps) may take.
	MaxHeaderBytes int64
	// MaxTrailer is how much may follow the archive's end mark.
	MaxTrailer int64
	// Recipe, if set, gets what Assemble needs to make the tar again.
	Recipe io.Writer
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	if o.MaxDepth == 0 {
		o.MaxDepth = DefaultMaxDepth
	}
	if o.MaxHeaderBytes == 0 {
		o.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	if o.MaxTrailer == 0 {
		o.MaxTrailer = DefaultMaxTrailer
	}
	return o
}

// Usage is what a layer takes up: an estimate that needs no walk over the
// result. Holes do not count, a hard link counts once, the layer's root
// directory does not count.
type Usage struct {
	Bytes  int64
	Inodes int64
}

// Result is what Apply has to say about a layer.
type Result struct {
	Usage
	// Implied are the directories that the tar has files in but does not
	// list, as paths from the layer's root without symlinks, sorted; "." is the
	// root. They are 0755, root, and what Inherit is for. What a whiteout in
	// the same layer made anew is not among them. Only the first 4096 are, and
	// no more than 256 KiB of paths.
	Implied []string
	// OpaqueRoot says that the layer hides all layers below it. Overlayfs has
	// to be told, by leaving those out.
	OpaqueRoot bool
	// Inexact says that the recipe does not give the tar again: an entry has
	// replaced an earlier one, whose data is gone.
	Inexact bool
}

// Apply unpacks the uncompressed tar stream r into the empty directory dir. It
// reads r to its end, so that a digest the caller computes over r covers every
// byte of it, also those behind the archive's end mark.
//
// Apply checks ctx at every entry and every chunk, but cannot interrupt a
// blocked Read of r: make that end when ctx does.
func Apply(ctx context.Context, r io.Reader, dir string, o Options) (Result, error) {
	root, err := openRoot(dir)
	if err != nil {
		return Result{}, err
	}
	o = o.withDefaults()
	buf := takeBuffer()
	defer buffers.Put(buf)
	a := &applier{
		limits: o,
		in:     newStream(ctx, r),
		dirs:   newDirs(root, o.MaxDepth),
		buf:    *buf,
		isRoot: os.Geteuid() == 0 && os.Getegid() == 0,
	}
	a.in.recipe.w = o.Recipe
	a.tr = tar.NewReader(a.in)
	err = a.run(ctx)
	var implied []string
	if err == nil {
		implied, err = a.impliedPaths()
	}
	err = errors.Join(err, a.dirs.close(err == nil))
	if err == nil {
		if err = a.in.recipe.finish(); err != nil {
			err = fmt.Errorf("write recipe: %w", err)
		}
	}
	a.in.release()
	if err != nil {
		return Result{}, err
	}
	return Result{Usage: a.usage, Implied: implied, OpaqueRoot: a.opaqueRoot, Inexact: a.in.recipe.inexact}, nil
}

// openRoot opens the directory to fill. It insists on an empty one because the
// rest of the package takes every character device 0:0 that it meets for a
// whiteout of its own.
func openRoot(dir string) (*directory, error) {
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	names, err := readNames(fd)
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("not empty: %w", errdefs.ErrFailedPrecondition)
	}
	var st unix.Stat_t
	if err == nil {
		st, err = fstat(fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("check layer directory %s: %w", dir, err), unix.Close(fd))
	}
	return &directory{fd: fd, gid: int(st.Gid)}, nil
}

// applier is the state of one Apply.
type applier struct {
	limits  Options
	in      *stream
	tr      *tar.Reader
	dirs    *dirs
	buf     []byte
	usage   Usage
	entries int64
	bytes   int64
	isRoot  bool        // this process's files are owned by 0:0
	root    *tar.Header // what the tar says of the root directory, if anything

	implied      map[string]bool // may hold what is no directory any more
	impliedBytes int
	opaqueRoot   bool
}

func (a *applier) run(ctx context.Context) error {
	last := ""
	for {
		a.in.limit(a.limits.MaxHeaderBytes + 2*blockSize) // the previous entry's padding, and this one's own block
		hdr, err := a.tr.Next()
		a.in.limit(unlimited)
		if errors.Is(err, io.EOF) && a.in.err == nil {
			break
		}
		if err != nil {
			return a.streamError(fmt.Sprintf("read header after entry %s", quote(last)), err)
		}
		last = hdr.Name
		if err := a.entry(ctx, hdr); err != nil {
			return fmt.Errorf("unpack %s: %w", quote(hdr.Name), err)
		}
	}
	if err := a.finishRoot(); err != nil {
		return fmt.Errorf("set metadata of the layer's root: %w", err)
	}
	if err := a.in.drain(a.limits.MaxTrailer); err != nil {
		return a.streamError("read end of layer", err)
	}
	return nil
}

// streamError tells the layer's faults from those of the stream it comes by: a
// broken connection says nothing about the bytes that did not arrive.
func (a *applier) streamError(what string, err error) error {
	if a.in.err != nil {
		return fmt.Errorf("%s: %w", what, a.in.err)
	}
	return fmt.Errorf("%s: %w", what, invalid(err))
}

// entry brings one tar entry onto the disk.
func (a *applier) entry(ctx context.Context, hdr *tar.Header) error {
	if err := a.charge(1); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // would apply to all later entries; no known image relies on it
	}
	if err := a.dirs.begin(); err != nil {
		return err
	}
	n, err := parseName(hdr.Name, a.limits.MaxDepth)
	if err != nil {
		return err
	}
	switch n.kind {
	case namePlain: // goes on below
	case nameIgnored:
		return a.skipData(hdr)
	case nameRoot:
		return a.rootEntry(hdr)
	case nameWhiteout, nameOpaque:
		// aufs wrote them as hard links to one file, everyone else as empty files.
		if !isRegular(hdr.Typeflag) && hdr.Typeflag != tar.TypeLink {
			return invalidf("whiteout has type %q", hdr.Typeflag)
		}
		if err := a.whiteout(n); err != nil {
			return fmt.Errorf("convert whiteout: %w", blame(err))
		}
		return a.skipData(hdr)
	}
	m, err := metaOf(hdr)
	if err != nil {
		return err
	}
	err = a.create(ctx, hdr, n, m)
	if a.in.err != nil {
		return err // whatever it says, it was not the entry
	}
	return blame(err)
}

func (a *applier) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return invalidf("entry of type %q in place of the root directory", hdr.Typeflag)
	}
	if _, err := metaOf(hdr); err != nil {
		return err
	}
	a.root = hdr
	return nil
}

// finishRoot opens up the root directory only now: while a setuid file may be
// half made, the directory is as private as the caller made it.
func (a *applier) finishRoot() error {
	root := a.dirs.root
	if a.root == nil {
		return os.NewSyscallError("fchmod", unix.Fchmod(root.fd, 0o755))
	}
	m, err := metaOf(a.root)
	if err != nil {
		return err
	}
	return blame(root.setMeta(m))
}

// charge counts entries against the limit.
func (a *applier) charge(entries int64) error {
	a.entries += entries
	if a.entries > a.limits.MaxEntries {
		return invalidf("layer has more than %d entries", a.limits.MaxEntries)
	}
	return nil
}

// chargeData counts a file's data against the limit before any of it is read.
func (a *applier) chargeData(size int64) error {
	if size < 0 || size > a.limits.MaxBytes-a.bytes {
		return invalidf("layer holds more than %d bytes of data", a.limits.MaxBytes)
	}
	a.bytes += size
	return nil
}

// skipData reads over the data of an entry that is not written anywhere, which
// would otherwise be charged to the next entry's header.
func (a *applier) skipData(hdr *tar.Header) error {
	if !isRegular(hdr.Typeflag) {
		return nil
	}
	if err := a.chargeData(hdr.Size); err != nil {
		return err
	}
	a.in.recipe.dataAsIs(hdr.Size)
	for left := hdr.Size; left > 0; {
		n, err := io.ReadFull(a.tr, a.buf[:min(left, int64(len(a.buf)))])
		if err != nil {
			return a.streamError("read data", err)
		}
		left -= int64(n)
	}
	return nil
}
