package containers

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// pack writes a file, or a directory with all in it, as a tar, with another name
// for itself. follow: a symbolic link at its place is followed. It returns how
// many bytes files have.
func pack(w io.Writer, from, name string, follow bool) (size int64, err error) {
	archive := tar.NewWriter(w)
	root := from
	if follow {
		if root, err = filepath.EvalSymlinks(from); err != nil {
			return 0, err
		}
	}
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n, err := packOne(archive, file, path.Join(name, filepath.ToSlash(below)), info)
		size += n
		return err
	})
	if err != nil {
		return size, err
	}
	return size, archive.Close()
}

func packOne(archive *tar.Writer, file, name string, info fs.FileInfo) (int64, error) {
	if info.Mode()&fs.ModeSocket != 0 {
		return 0, nil // a tar cannot say it, and nobody listens to a copy
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(file); err != nil {
			return 0, err
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	if err := archive.WriteHeader(header); err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(archive, io.LimitReader(f, header.Size))
}

// unpacker unpacks a tar that a container has had its hands in: nothing in it
// leads out of dir.
type unpacker struct {
	dir string
	// from is the name at the top of the tar, to the one it gets; "." puts what
	// is in it into dir.
	from, to  string
	keepOwner bool
}

// unpack returns how many bytes files have.
func (u unpacker) unpack(r io.Reader) (size int64, err error) {
	root, err := os.OpenRoot(u.dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	archive := tar.NewReader(r)
	var directories []*tar.Header
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return size, fmt.Errorf("read the tar: %w", err)
		}
		name := u.rename(header.Name)
		if name == "." {
			continue
		}
		header.Name = name
		if err := u.unpackOne(root, header, archive); err != nil {
			return size, fmt.Errorf("unpack %s: %w", name, err)
		}
		size += header.Size
		if header.Typeflag == tar.TypeDir {
			directories = append(directories, header)
		}
	}
	// The innermost first: to write into a directory changes its time, and its
	// mode may forbid it.
	for _, d := range slices.Backward(directories) {
		if err := u.finish(root, d); err != nil {
			return size, err
		}
	}
	return size, nil
}

// rename is the name something of the tar gets.
func (u unpacker) rename(name string) string {
	name = path.Join("/", name)[1:]
	if u.from != "." && u.from != "/" {
		if name == u.from {
			return u.to
		}
		name = strings.TrimPrefix(name, u.from+"/")
	}
	return path.Join(u.to, name)
}

func (u unpacker) unpackOne(root *os.Root, header *tar.Header, content io.Reader) error {
	name := header.Name
	old, err := root.Lstat(name)
	exists := err == nil
	if header.Typeflag == tar.TypeDir {
		if exists && old.IsDir() {
			return nil
		}
		if exists {
			return errDirOverFile
		}
		return root.Mkdir(name, 0o700)
	}
	if exists {
		if old.IsDir() {
			return errors.New("cannot overwrite a directory with a file")
		}
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		return root.Link(u.rename(header.Linkname), name)
	case tar.TypeReg:
	default:
		return nil // devices and pipes are the container's
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return u.finish(root, header)
}

// finish gives a file its owner, mode and time.
func (u unpacker) finish(root *os.Root, header *tar.Header) error {
	if u.keepOwner {
		if err := root.Lchown(header.Name, header.Uid, header.Gid); err != nil {
			return err
		}
	}
	bits := header.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if !u.keepOwner {
		// It belongs to whoever copies it: a program of the container's must not run
		// as root of the machine because of that.
		bits &^= fs.ModeSetuid | fs.ModeSetgid
	}
	if err := root.Chmod(header.Name, bits); err != nil {
		return err
	}
	return root.Chtimes(header.Name, header.ModTime, header.ModTime)
}
