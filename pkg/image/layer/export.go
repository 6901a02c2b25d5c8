package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Export writes what is in dir, a layer in overlayfs form, to w as an
// uncompressed tar stream in the form of an image layer: the inverse of Apply.
// Names are in order. The layer may be in use: symlinks are never followed, a
// file that shrinks meanwhile is filled up with zeros, one that grows is cut,
// and what has gone is left out. So are sockets, and names that would read as
// whiteouts.
func Export(ctx context.Context, dir string, w io.Writer) error {
	return ExportWith(ctx, dir, w, ExportOptions{})
}

// ExportOptions change what Export writes. The zero value changes nothing.
type ExportOptions struct {
	// Skip leaves out an entry, and all below it. The name is a clean path from
	// the layer's root.
	Skip func(name string, info *unix.Stat_t) bool
	// UID and GID, if set, give the owners that the tar is to have for those of
	// the files. What they do not know is an error.
	UID, GID func(id uint32) (uint32, bool)
	// Latest, if not zero, is the time that younger files get.
	Latest time.Time
}

// ExportWith is Export with options.
func ExportWith(ctx context.Context, dir string, w io.Writer, o ExportOptions) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	root := os.NewFile(uintptr(fd), dir)
	e := &exporter{ctx: ctx, options: o, out: tar.NewWriter(w), links: map[inode]string{}}
	return errors.Join(e.directory(root, ""), e.out.Close(), root.Close())
}

type inode struct{ dev, ino uint64 }

// exporter is one Export under way.
type exporter struct {
	ctx   context.Context //nolint:containedctx // the life of an exporter is that of one call
	out   *tar.Writer
	links map[inode]string // the first name of files that have more

	options ExportOptions
}

// directory writes a directory and all below it. name is "" for the root.
func (e *exporter) directory(d *os.File, name string) error {
	if err := e.directoryHeader(d, name); err != nil {
		return err
	}
	if opaque, err := isOpaque(int(d.Fd())); err != nil {
		return fmt.Errorf("%s: %w", d.Name(), err)
	} else if opaque {
		marker := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, opaqueMarker), Mode: 0o600}
		if err := e.out.WriteHeader(marker); err != nil {
			return err
		}
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := e.ctx.Err(); err != nil {
			return context.Cause(e.ctx)
		}
		if err := e.entry(d, n, path.Join(name, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// directoryHeader writes the entry of a directory itself.
func (e *exporter) directoryHeader(d *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.Name(), Err: err}
	}
	hdr, err := e.headerOf(name+"/", &st)
	if err != nil {
		return err
	}
	hdr.Typeflag = tar.TypeDir
	if name == "" {
		hdr.Name = "./"
	}
	return e.write(hdr, d)
}

// entry writes one entry of a directory.
func (e *exporter) entry(parent *os.File, base, name string) error {
	if strings.HasPrefix(base, whiteoutPrefix) {
		return nil // the form has no way to say it
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if e.options.Skip != nil && e.options.Skip(name, &st) {
		return nil
	}
	hdr, err := e.headerOf(name, &st)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		d, err := openEntry(parent, base, name, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		return errors.Join(e.directory(d, name), d.Close())
	case unix.S_IFREG:
		return e.file(parent, base, hdr, &st)
	case unix.S_IFLNK:
		target, err := readlinkAt(parent, base)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return e.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), whiteoutPrefix+base), Mode: 0o600})
		}
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeBlock, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	default:
		return nil // a socket is of no use without its process
	}
	return e.out.WriteHeader(hdr)
}

// file writes a regular file, or a link to one that was written already.
func (e *exporter) file(parent *os.File, base string, hdr *tar.Header, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := e.links[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return e.out.WriteHeader(hdr)
		}
		defer func() { e.links[id] = hdr.Name }()
	}
	f, err := openEntry(parent, base, hdr.Name, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return &os.PathError{Op: "stat", Path: hdr.Name, Err: err}
	}
	if now.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil // something else has taken its place
	}
	hdr.Typeflag, hdr.Size = tar.TypeReg, now.Size
	if err := e.write(hdr, f); err != nil {
		return err
	}
	n, err := io.Copy(e.out, io.LimitReader(&interruptible{e.ctx, f}, now.Size))
	if err == nil && n < now.Size {
		_, err = io.CopyN(e.out, zeros{}, now.Size-n)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", hdr.Name, err)
	}
	return nil
}

// interruptible ends a read of a long file with its context.
type interruptible struct {
	ctx context.Context //nolint:containedctx // the life of the reader is that of one call
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(p)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// write writes a header with the extended attributes that Apply takes.
func (e *exporter) write(hdr *tar.Header, f *os.File) error {
	names, err := listXattrs(int(f.Fd()))
	if err != nil {
		return &os.PathError{Op: "list attributes of", Path: hdr.Name, Err: err}
	}
	for _, n := range names {
		if !takeXattr(n) {
			continue
		}
		value, err := getXattr(int(f.Fd()), n)
		if err != nil {
			return &os.PathError{Op: "read attribute of", Path: hdr.Name, Err: err}
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[paxXattr+n] = value
	}
	return e.out.WriteHeader(hdr)
}

// headerOf is what all types of entries have.
func (e *exporter) headerOf(name string, st *unix.Stat_t) (*tar.Header, error) {
	uid, gid := st.Uid, st.Gid
	var ok bool
	if e.options.UID != nil {
		if uid, ok = e.options.UID(uid); !ok {
			return nil, fmt.Errorf("%s belongs to user %d, which the user namespace does not have", quote(name), st.Uid)
		}
	}
	if e.options.GID != nil {
		if gid, ok = e.options.GID(gid); !ok {
			return nil, fmt.Errorf("%s belongs to group %d, which the user namespace does not have", quote(name), st.Gid)
		}
	}
	mtime := time.Unix(st.Mtim.Unix())
	if !e.options.Latest.IsZero() && mtime.After(e.options.Latest) {
		mtime = e.options.Latest
	}
	return &tar.Header{
		Format: tar.FormatPAX, Name: name,
		Mode: int64(st.Mode & 0o7777), Uid: int(uid), Gid: int(gid),
		ModTime: mtime,
	}, nil
}

func openEntry(parent *os.File, base, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), base, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readlinkAt(parent *os.File, base string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(parent.Fd()), base, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// listXattrs lists the names of a file's extended attributes.
func listXattrs(fd int) ([]string, error) {
	b := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Flistxattr(fd, b)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 }), nil
}

func getXattr(fd int, name string) (string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(fd, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
