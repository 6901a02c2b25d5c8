package inside

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// maxDepth bounds directories in directories.
const maxDepth = 1000

// namesAtOnce is how many names of a directory are read at once.
const namesAtOnce = 1024

// IDs maps an owner on the machine to the one the container sees; nil is for the
// same ones.
type IDs func(id uint32) uint32

func (m IDs) of(id uint32) int {
	if m == nil {
		return int(id)
	}
	return int(m(id))
}

// Packing says how to pack.
type Packing struct {
	// Name of the first entry; empty is the path's last name, "." for the root.
	Name string
	// Follow a symbolic link at the end of the path.
	Follow bool
	// UID and GID of owners in the tar.
	UID, GID IDs
}

// Pack writes a path, and if it is a directory all in it, as a tar. The tar is as good as the
// container lets it be: files that change meanwhile are cut or filled to the size
// they had, and those that go are left out.
func (r *Root) Pack(ctx context.Context, w io.Writer, name string, p Packing) error {
	fd, err := r.resolve(name, nofollow(p.Follow))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	k := packer{ctx: ctx, tar: tar.NewWriter(w), packing: p, links: make(map[inode]string)}
	top := p.Name
	if top == "" {
		top = baseName(name)
	}
	if err := k.add(fd, top, 0); err != nil {
		return err
	}
	return k.tar.Close()
}

// inode tells files apart.
type inode struct{ dev, ino uint64 }

type packer struct {
	ctx     context.Context //nolint:containedctx // of one Pack
	tar     *tar.Writer
	packing Packing
	// links are the names of files that have several.
	links map[inode]string
}

// add writes what fd, open with O_PATH, is.
func (k *packer) add(fd int, name string, depth int) error {
	if err := k.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories in one another", name, maxDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	s, err := statOf(fd)
	if err != nil {
		return err
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), ModTime: s.Time, Format: tar.FormatPAX,
		Uid: k.packing.UID.of(st.Uid), Gid: k.packing.GID.of(st.Gid),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
		if err := k.tar.WriteHeader(h); err != nil {
			return err
		}
		return k.directory(fd, name, depth)
	case unix.S_IFREG:
		return k.file(fd, &st, h)
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, s.Link
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil // a socket: nobody listens to a copy
	}
	return k.tar.WriteHeader(h)
}

func (k *packer) file(fd int, st *unix.Stat_t, h *tar.Header) error {
	h.Typeflag = tar.TypeReg
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := k.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return k.tar.WriteHeader(h)
		}
		k.links[id] = h.Name
	}
	f, err := reopen(fd, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Size = st.Size
	if err := k.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(k.tar, io.LimitReader(f, h.Size))
	if err != nil {
		return err
	}
	_, err = io.CopyN(k.tar, zeros{}, h.Size-n) // it has shrunk
	return err
}

// zeros is as much of them as wanted.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (k *packer) directory(fd int, name string, depth int) error {
	d, err := reopen(fd, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		// The container may have made more than there is memory for.
		names, err := d.Readdirnames(namesAtOnce)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, child := range names {
			if err := k.child(int(d.Fd()), name, child, depth); err != nil {
				return err
			}
		}
	}
}

func (k *packer) child(parent int, dir, name string, depth int) error {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if errors.Is(err, unix.ENOENT) {
		return nil // it has gone meanwhile
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path.Join(dir, name), Err: err}
	}
	defer unix.Close(fd)
	return k.add(fd, path.Join(dir, name), depth+1)
}
