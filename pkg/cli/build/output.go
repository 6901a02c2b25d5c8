package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// output is what is made of what the daemon sends instead of an image.
type output struct {
	kind string
	// to takes the tar; nil for a directory.
	to   io.WriteCloser
	file string // the temporary one that to writes
	dest string

	pipe      *io.PipeWriter
	unpacking sync.WaitGroup
	err       error
}

// parseOutput reads -o: a directory, - for a tar, or type=...,dest=...
func parseOutput(s string, stdout io.Writer) (*output, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // an image
	}
	o := &output{kind: "local", dest: s}
	switch {
	case s == "-":
		o.kind = "tar"
	case fields(s)["type"] != "":
		f := fields(s)
		o.kind, o.dest = f["type"], f["dest"]
		if f["push"] == "true" {
			return nil, errors.New("--output with push=true: build first, then push")
		}
		if o.kind == "image" {
			return nil, nil //nolint:nilnil // an image
		}
		if o.dest == "" {
			o.dest = "-"
		}
	}
	switch o.kind {
	case "local":
		if o.dest == "-" {
			return nil, errors.New("--output type=local needs dest=DIRECTORY")
		}
		return o, o.openDirectory()
	case "tar", "oci", "docker":
		if o.dest == "-" {
			o.to = nopCloser{stdout}
			return o, nil
		}
		f, err := os.CreateTemp(filepath.Dir(o.dest), "."+filepath.Base(o.dest)+"-")
		if err != nil {
			return nil, fmt.Errorf("--output: %w", err)
		}
		o.to, o.file = f, f.Name()
		return o, nil
	}
	return nil, fmt.Errorf("--output type=%s: use local, tar, oci, docker or image", o.kind)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// openDirectory unpacks into a directory what is written.
func (o *output) openDirectory() error {
	if err := os.MkdirAll(o.dest, 0o755); err != nil { //nolint:gosec // as any directory people make
		return fmt.Errorf("--output: %w", err)
	}
	root, err := os.OpenRoot(o.dest)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	r, w := io.Pipe()
	o.pipe = w
	o.unpacking.Go(func() {
		o.err = errors.Join(unpack(r, root), root.Close())
		_ = r.CloseWithError(o.err)
	})
	return nil
}

func (o *output) write(p []byte) error {
	if o == nil {
		return nil
	}
	var err error
	if o.pipe != nil {
		_, err = o.pipe.Write(p)
	} else {
		_, err = o.to.Write(p)
	}
	return err
}

// close ends the output, and throws it away where the build failed.
func (o *output) close(ok bool) error {
	if o == nil {
		return nil
	}
	if o.pipe != nil {
		if ok {
			_ = o.pipe.Close() // never fails
		} else {
			_ = o.pipe.CloseWithError(errFailed)
		}
		o.unpacking.Wait()
		if !ok {
			return nil
		}
		return o.err
	}
	err := o.to.Close()
	if o.file == "" {
		return err
	}
	if !ok || err != nil {
		return errors.Join(err, os.Remove(o.file))
	}
	return errors.Join(os.Chmod(o.file, 0o644), os.Rename(o.file, o.dest))
}

var errFailed = errors.New("the build failed")

// unpack writes the files of a tar below root, and nowhere else: what is in it a
// build has made.
func unpack(r io.Reader, root *os.Root) error {
	in := tar.NewReader(r)
	type stamp struct {
		name string
		time time.Time
		mode fs.FileMode
	}
	var dirs []stamp
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if name == "." {
			continue
		}
		if err := unpackEntry(in, root, name, h); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, stamp{name, h.ModTime, h.FileInfo().Mode()})
		}
	}
	for _, d := range slices.Backward(dirs) {
		if err := errors.Join(root.Chmod(d.name, d.mode), root.Chtimes(d.name, d.time, d.time)); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// unpackEntry writes one file. Devices are left out, as they need root and serve
// nobody here.
func unpackEntry(in io.Reader, root *os.Root, name string, h *tar.Header) error {
	info, err := root.Lstat(name)
	if err == nil && (!info.IsDir() || h.Typeflag != tar.TypeDir) {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err == nil && info.IsDir() {
			return nil
		}
		return root.Mkdir(name, 0o700)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		err = errors.Join(err, f.Chmod(h.FileInfo().Mode()), f.Close())
		if os.Geteuid() == 0 {
			err = errors.Join(err, root.Lchown(name, h.Uid, h.Gid), root.Chmod(name, h.FileInfo().Mode()))
		}
		return errors.Join(err, root.Chtimes(name, h.ModTime, h.ModTime))
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.Clean(h.Linkname), name)
	}
	return nil
}
