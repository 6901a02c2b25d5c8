package checkpoint

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Unpacked is a checkpoint in a private directory, every byte of it verified.
type Unpacked struct {
	Manifest *Manifest
	// Images is the directory of CRIU's images, Diff the file with the changes
	// of the root file system, Spec the OCI spec.
	Images, Diff string
	Spec         []byte
}

// Peek verifies and returns the manifest at the beginning of an archive.
func (k Key) Peek(r io.Reader) (*Manifest, error) {
	m, _, err := k.begin(r)
	return m, err
}

// begin reads the manifest and leaves the archive at the next file.
func (k Key) begin(r io.Reader) (*Manifest, *tar.Reader, error) {
	in := tar.NewReader(r)
	document, err := readEntry(in, manifestName, maxManifest)
	if err != nil {
		return nil, nil, err
	}
	mac, err := readEntry(in, macName, sha256.Size*2)
	if err != nil {
		return nil, nil, err
	}
	m, err := k.parseManifest(document, string(mac))
	return m, in, err
}

// readEntry reads the next entry, which must be the named one.
func readEntry(in *tar.Reader, name string, limit int64) ([]byte, error) {
	hdr, err := in.Next()
	if err != nil {
		return nil, untrusted("read %s of the checkpoint: %w", name, err)
	}
	if hdr.Typeflag != tar.TypeReg || entryName(hdr.Name) != name || hdr.Size > limit {
		return nil, untrusted("archive does not begin with a %s as checkpoints made by cri-node do", name)
	}
	b, err := io.ReadAll(io.LimitReader(in, limit))
	if err != nil {
		return nil, untrusted("read %s of the checkpoint: %w", name, err)
	}
	return b, nil
}

func entryName(name string) string { return strings.TrimPrefix(name, "./") }

// Unpack verifies an archive and unpacks it to dir, which is made. Files that
// the manifest does not name are passed over. On an error dir is of no use.
func (k Key) Unpack(ctx context.Context, r io.Reader, dir string) (*Unpacked, error) {
	m, in, err := k.begin(reader{ctx, r})
	if err != nil {
		return nil, err
	}
	u, err := newUnpacked(m, dir)
	if err != nil {
		return nil, err
	}
	missing := m.byName()
	for len(missing) > 0 {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, untrusted("read checkpoint: %w", err)
		}
		f, ok := missing[entryName(hdr.Name)]
		if !ok || hdr.Typeflag != tar.TypeReg {
			continue
		}
		delete(missing, f.Name)
		if err := u.take(dir, f, in); err != nil {
			return nil, err
		}
	}
	return u, complete(missing)
}

// UnpackDir is Unpack of an archive that lies unpacked in a directory, such as
// the layer of an image, of which nothing is believed either.
func (k Key) UnpackDir(ctx context.Context, from, dir string) (_ *Unpacked, err error) {
	root, err := os.OpenRoot(from)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	m, err := k.manifestIn(root)
	if err != nil {
		return nil, err
	}
	u, err := newUnpacked(m, dir)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if err := u.takeFrom(ctx, root, dir, f); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// PeekDir is Peek of an unpacked archive.
func (k Key) PeekDir(from string) (_ *Manifest, err error) {
	root, err := os.OpenRoot(from)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return k.manifestIn(root)
}

func (k Key) manifestIn(root *os.Root) (*Manifest, error) {
	var documents [2][]byte
	for i, name := range []string{manifestName, macName} {
		f, err := openRegular(root, name)
		if err != nil {
			return nil, err
		}
		documents[i], err = io.ReadAll(io.LimitReader(f, maxManifest))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read %s of the checkpoint: %w", name, err)
		}
	}
	return k.parseManifest(documents[0], string(documents[1]))
}

// openRegular opens a file and nothing else: neither what a link leads to nor
// a device, and it does not wait for the other end of a pipe.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, untrusted("checkpoint has no %s", name)
	}
	if err != nil {
		return nil, untrusted("open %s of the checkpoint: %w", name, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(untrusted("%s of the checkpoint is no file", name), err, f.Close())
	}
	return f, nil
}

func newUnpacked(m *Manifest, dir string) (*Unpacked, error) {
	u := &Unpacked{Manifest: m, Images: filepath.Join(dir, "images"), Diff: filepath.Join(dir, diffName)}
	if err := os.MkdirAll(u.Images, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of the checkpoint: %w", err)
	}
	return u, nil
}

func (u *Unpacked) takeFrom(ctx context.Context, root *os.Root, dir string, f File) error {
	in, err := openRegular(root, f.Name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	return u.take(dir, f, reader{ctx, in})
}

// take copies one file and verifies it.
func (u *Unpacked) take(dir string, f File, r io.Reader) (err error) {
	h := sha256.New()
	// One byte more shows that there is more.
	r = io.TeeReader(io.LimitReader(r, f.Size+1), h)
	var n int64
	switch f.Name {
	case specName:
		u.Spec, err = io.ReadAll(r)
		n = int64(len(u.Spec))
	case configName:
		n, err = io.Copy(io.Discard, r)
	default:
		target := filepath.Join(dir, diffName)
		if name, ok := strings.CutPrefix(f.Name, imagesPrefix); ok {
			target = filepath.Join(u.Images, name)
		}
		n, err = writeNew(target, r)
	}
	if err != nil {
		return fmt.Errorf("unpack %s of the checkpoint: %w", f.Name, err)
	}
	if n != f.Size || hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return untrusted("%s of the checkpoint is not what its manifest says", f.Name)
	}
	return nil
}

func writeNew(path string, r io.Reader) (n int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(f, r)
	return n, errors.Join(err, f.Close())
}

func (m *Manifest) byName() map[string]File {
	files := make(map[string]File, len(m.Files))
	for _, f := range m.Files {
		files[f.Name] = f
	}
	return files
}

func complete(missing map[string]File) error {
	for name := range missing {
		return untrusted("checkpoint has no %s", name)
	}
	return nil
}
