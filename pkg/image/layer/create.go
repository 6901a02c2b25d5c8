package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	opaqueXattr = "trusted.overlay.opaque"
	dirBytes    = 4 << 10 // what a directory takes up, by estimate

	// maxMajor and maxMinor are the kernel's: it drops higher bits without a
	// word, and what is left could be 0:0.
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

func isRegular(typeflag byte) bool {
	return typeflag == tar.TypeReg || typeflag == tar.TypeGNUSparse
}

// create makes what hdr describes at n.
func (a *applier) create(ctx context.Context, hdr *tar.Header, n entryName, m meta) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return invalidf("unknown entry type %q", hdr.Typeflag)
	}
	parent, err := a.dirs.find(n.parent, a.makeMissing)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return a.directory(ctx, parent, n.base, m)
	case tar.TypeLink:
		return a.hardLink(ctx, parent, n.base, hdr.Linkname)
	case tar.TypeSymlink:
		return a.symlink(ctx, parent, n.base, hdr.Linkname, m)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return a.node(ctx, parent, n.base, hdr, m)
	default:
		return a.file(ctx, parent, n.base, hdr, m)
	}
}

// place calls make, which creates base in parent, and removes what has that
// name already, if anything.
func (a *applier) place(ctx context.Context, parent *directory, base string, make func() error) error {
	parent.dirty = true
	err := make()
	if errors.Is(err, unix.EEXIST) {
		if err := a.remove(ctx, parent.fd, base); err != nil {
			return fmt.Errorf("remove earlier entry: %w", err)
		}
		err = make()
	}
	if err == nil {
		a.usage.Inodes++
	}
	return err
}

func (a *applier) file(ctx context.Context, parent *directory, base string, hdr *tar.Header, m meta) error {
	size := hdr.Size
	if err := a.chargeData(size); err != nil {
		return err
	}
	fd := -1
	err := a.place(ctx, parent, base, func() (err error) {
		// O_EXCL: never into a file that exists, which may have other names.
		fd, err = openat(parent.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	if sparse(hdr) {
		a.in.recipe.dataAsIs(size)
	} else {
		a.in.recipe.file(joinPath(parent.path, base), size)
	}
	err = a.writeData(fd, size)
	a.in.recipe.resume()
	// Most files are root's, and root has made them.
	if err == nil && (!a.isRoot || m.uid != 0 || m.gid != 0 || parent.gid != 0) {
		err = os.NewSyscallError("fchown", unix.Fchown(fd, m.uid, m.gid))
	}
	if err == nil {
		err = m.setFd(fd, true)
	}
	if err == nil {
		err = setTimes(parent.fd, base, m.times)
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
}

// directory creates a directory or, if there is one already, gives it new
// metadata. One that takes the place of a whiteout has to hide the directory
// below just as the whiteout did, so it is made opaque.
func (a *applier) directory(ctx context.Context, parent *directory, base string, m meta) error {
	parent.dirty = true
	err := mkdirat(parent.fd, base)
	if errors.Is(err, unix.EEXIST) {
		st, serr := statAt(parent.fd, base)
		if serr != nil {
			return serr
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = nil
			a.usage.Inodes--
			a.usage.Bytes -= dirBytes
		case isWhiteout(&st):
			err = a.replaceWhiteout(parent.fd, base)
		default:
			if err := a.remove(ctx, parent.fd, base); err != nil {
				return fmt.Errorf("remove earlier entry: %w", err)
			}
			err = mkdirat(parent.fd, base)
		}
	}
	if err != nil {
		return err
	}
	a.usage.Inodes++
	a.usage.Bytes += dirBytes
	delete(a.implied, joinPath(parent.path, base))
	dir, err := a.dirs.child(parent, base)
	if err != nil {
		return err
	}
	return dir.setMeta(m)
}

// makeMissing creates a parent directory that the tar has not listed, yet. Its
// path is p, and its parent is open as fd.
func (a *applier) makeMissing(fd int, p string) error {
	_, base := splitPath(p)
	if err := a.charge(1); err != nil {
		return err
	}
	st, err := fstat(fd)
	if err != nil {
		return err
	}
	err = mkdirat(fd, base)
	switch {
	case err == nil:
		a.imply(p)
	case errors.Is(err, unix.EEXIST):
		st, serr := statAt(fd, base)
		if serr != nil {
			return serr
		}
		if !isWhiteout(&st) {
			return unix.ENOTDIR
		}
		err = a.replaceWhiteout(fd, base)
	}
	if err != nil {
		return err
	}
	a.usage.Inodes++
	a.usage.Bytes += dirBytes
	// The umask may have taken bits away; base is a directory, so there is no
	// symlink to follow.
	if err := chmodAt(fd, base, 0o755); err != nil {
		return err
	}
	times := [2]unix.Timespec{st.Atim, st.Mtim}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, ".", times[:], 0))
}

// replaceWhiteout puts an opaque directory in the place of a whiteout.
func (a *applier) replaceWhiteout(fd int, base string) error {
	if err := unlinkat(fd, base, 0); err != nil {
		return err
	}
	a.usage.Inodes--
	if err := mkdirat(fd, base); err != nil {
		return err
	}
	return setOpaqueAt(fd, base)
}

func (a *applier) symlink(ctx context.Context, parent *directory, base, target string, m meta) error {
	if target == "" {
		return invalidf("symlink has no target")
	}
	err := a.place(ctx, parent, base, func() error {
		return os.NewSyscallError("symlinkat", unix.Symlinkat(target, parent.fd, base))
	})
	if err != nil {
		return err
	}
	if err := chownAt(parent.fd, base, m); err != nil {
		return err
	}
	return setTimes(parent.fd, base, m.times)
}

// node makes a device node or a FIFO.
func (a *applier) node(ctx context.Context, parent *directory, base string, hdr *tar.Header, m meta) error {
	var mode uint32
	switch hdr.Typeflag {
	case tar.TypeChar:
		mode = unix.S_IFCHR
	case tar.TypeBlock:
		mode = unix.S_IFBLK
	default:
		mode = unix.S_IFIFO
	}
	var dev uint64
	if mode != unix.S_IFIFO {
		if hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor {
			return invalidf("device number %d:%d out of range", hdr.Devmajor, hdr.Devminor)
		}
		if mode == unix.S_IFCHR && hdr.Devmajor == 0 && hdr.Devminor == 0 {
			return invalidf("character device 0:0 is an overlayfs whiteout")
		}
		dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	}
	err := a.place(ctx, parent, base, func() error {
		return os.NewSyscallError("mknodat", unix.Mknodat(parent.fd, base, mode|0o600, int(dev)))
	})
	if err != nil {
		return err
	}
	if err := chownAt(parent.fd, base, m); err != nil {
		return err
	}
	if err := chmodAt(parent.fd, base, m.mode); err != nil {
		return err
	}
	return setTimes(parent.fd, base, m.times)
}

// hardLink gives a file that an earlier entry made another name. It sets no
// metadata: the file has got its own with its first name, and chown(2) would
// take its capabilities away.
func (a *applier) hardLink(ctx context.Context, parent *directory, base, source string) error {
	n, err := parseName(source, a.limits.MaxDepth)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(source), err)
	}
	if n.kind != namePlain {
		return invalidf("hard link to %s, which is no file", quote(source))
	}
	from, err := a.dirs.find(n.parent, nil)
	if err != nil {
		return missingSource(source, err)
	}
	st, err := statAt(from.fd, n.base)
	if err != nil {
		return missingSource(source, err)
	}
	// A symlink is linked to as such. Whiteouts and directories must not be,
	// and no one has hard links of devices and FIFOs.
	if format := st.Mode & unix.S_IFMT; format != unix.S_IFREG && format != unix.S_IFLNK {
		return invalidf("hard link to %s, which is neither a regular file nor a symlink", quote(source))
	}
	if from.path == parent.path && n.base == base {
		return invalidf("hard link to itself")
	}
	err = a.place(ctx, parent, base, func() error {
		return os.NewSyscallError("linkat", unix.Linkat(from.fd, n.base, parent.fd, base, 0))
	})
	if err != nil {
		return missingSource(source, err) // what place removed may have held the source
	}
	a.usage.Inodes-- // place has counted a new one
	return nil
}

func missingSource(source string, err error) error {
	err = fmt.Errorf("hard link to %s: %w", quote(source), err)
	if errors.Is(err, unix.ENOENT) {
		return invalid(err)
	}
	return err
}

// whiteout hides what the layers below have at n. What this layer has there
// stays, since a whiteout concerns lower layers only.
func (a *applier) whiteout(n entryName) error {
	parent, err := a.dirs.find(n.parent, a.makeMissing)
	if err != nil {
		return err
	}
	if n.kind == nameOpaque {
		a.opaqueRoot = a.opaqueRoot || parent.path == ""
		return setOpaque(parent.fd)
	}
	parent.dirty = true
	err = os.NewSyscallError("mknodat", unix.Mknodat(parent.fd, n.base, unix.S_IFCHR, 0))
	if err == nil {
		a.usage.Inodes++
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	st, err := statAt(parent.fd, n.base)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		// Overlayfs would merge it with the directory below, and so would
		// Inherit.
		delete(a.implied, joinPath(parent.path, n.base))
		return setOpaqueAt(parent.fd, n.base)
	}
	return nil
}
