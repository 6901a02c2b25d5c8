package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of an archive of images.
const (
	maxArchiveEntries = 100_000
	maxArchiveName    = 4096
	maxArchiveImages  = 1000
	// maxArchiveLinks is how many symbolic links may lead to a file.
	maxArchiveLinks = 4
)

// archive is a tar of images, in a file without a name. Nothing in it is ever
// unpacked by its name: names only find what other files in it mention.
type archive struct {
	file    *os.File
	entries map[string]archiveEntry
}

type archiveEntry struct {
	offset, size int64
	link         string // of a symbolic link, already relative to the archive
}

// readArchive brings an archive, plain or compressed, to disk and makes an index
// of it. The caller closes it.
func (s *Store) readArchive(ctx context.Context, r io.Reader) (*archive, error) {
	plain, err := decompress(&contextReader{ctx, r})
	if err != nil {
		return nil, badArchive("decompress archive: %v", err)
	}
	defer plain.Close()
	f, err := s.namelessFile()
	if err != nil {
		return nil, err
	}
	a := &archive{file: f, entries: map[string]archiveEntry{}}
	n, err := io.Copy(f, io.LimitReader(plain, s.config.Limits.MaxBytes+1))
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = fmt.Errorf("read archive: %w", err)
	case n > s.config.Limits.MaxBytes:
		err = fmt.Errorf("archive has more than %d bytes: %w", s.config.Limits.MaxBytes, errdefs.ErrResourceExhausted)
	default:
		err = a.index(io.NewSectionReader(f, 0, n))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// index notes where the files are. Of two with one name the later counts.
func (a *archive) index(r *io.SectionReader) error {
	limited := &headerLimit{SectionReader: r}
	t := tar.NewReader(limited)
	for range maxArchiveEntries {
		limited.left = maxDocument
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return badArchive("it is no tar: %v", err)
		}
		name := cleanName(hdr.Name)
		if name == "" || len(name) > maxArchiveName || sparseHeader(hdr) {
			continue
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			offset, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if hdr.Size > r.Size()-offset {
				return badArchive("%.100q is cut off", name)
			}
			a.entries[name] = archiveEntry{offset: offset, size: hdr.Size}
		case tar.TypeSymlink, tar.TypeLink: // how older versions of docker store a layer twice
			target := hdr.Linkname
			if hdr.Typeflag == tar.TypeSymlink && !path.IsAbs(target) {
				target = path.Join(path.Dir(name), target)
			}
			a.entries[name] = archiveEntry{link: cleanName(target)}
		}
	}
	return badArchive("it has more than %d files", maxArchiveEntries)
}

// headerLimit bounds what headers may take of memory. Data is seeked over.
type headerLimit struct {
	*io.SectionReader
	left int64
}

func (h *headerLimit) Read(p []byte) (int, error) {
	if h.left <= 0 {
		return 0, errors.New("headers are too large")
	}
	n, err := h.SectionReader.Read(p[:min(int64(len(p)), h.left)])
	h.left -= int64(n)
	return n, err
}

func cleanName(name string) string { return path.Clean("/" + name)[1:] }

func sparseHeader(hdr *tar.Header) bool {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return hdr.Typeflag == tar.TypeGNUSparse
}

func (a *archive) has(name string) bool {
	_, ok := a.entries[name]
	return ok
}

// open finds a file by the name that another one in the archive gives it.
func (a *archive) open(name string) (*io.SectionReader, error) {
	at := cleanName(name)
	for range maxArchiveLinks {
		e, ok := a.entries[at]
		if !ok {
			return nil, badArchive("file %.100q is missing", name)
		}
		if e.link == "" {
			return io.NewSectionReader(a.file, e.offset, e.size), nil
		}
		at = e.link
	}
	return nil, badArchive("file %.100q is a link that leads nowhere", name)
}

// document reads a small file whole.
func (a *archive) document(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxDocument {
		return nil, badArchive("%.100q has %d bytes, at most %d are allowed", name, r.Size(), maxDocument)
	}
	return io.ReadAll(r)
}

// blobName is where an OCI layout keeps a blob.
func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// blob opens the blob of a descriptor and verifies it.
func (a *archive) blob(ctx context.Context, desc ocispec.Descriptor) (*io.SectionReader, error) {
	if err := validateDescriptor(desc, 1<<50); err != nil {
		return nil, badArchive("%v", err)
	}
	r, err := a.open(blobName(desc.Digest))
	if err != nil {
		return nil, err
	}
	sum := desc.Digest.Algorithm().Hash()
	if _, err := io.Copy(sum, &contextReader{ctx, r}); err != nil {
		return nil, err
	}
	if got := encoded(desc.Digest.Algorithm(), sum); got != desc.Digest {
		return nil, badArchive("blob %s has digest %s", desc.Digest, got)
	}
	_, err = r.Seek(0, io.SeekStart)
	return r, err
}

func (a *archive) blobDocument(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	r, err := a.blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxDocument {
		return nil, badArchive("blob %s has %d bytes, at most %d are allowed", desc.Digest, r.Size(), maxDocument)
	}
	return io.ReadAll(r)
}

func badArchive(format string, args ...any) error {
	return fmt.Errorf("image archive: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// archived is one image in an archive.
type archived struct {
	config []byte
	names  []string
	layers []func(context.Context) (*io.SectionReader, error) // in the order of the config's diff IDs
}

// dockerItem is an entry of manifest.json.
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// images finds what is in the archive: by manifest.json, as docker writes it, or
// by index.json of an OCI layout.
func (s *Store) archivedImages(ctx context.Context, a *archive, platform string) ([]archived, error) {
	switch {
	case a.has("manifest.json"):
		return dockerImages(a)
	case a.has("index.json"):
		return s.layoutImages(ctx, a, platform)
	case a.has("repositories"):
		return nil, badArchive("it is of docker 1.9 or older, and has no manifest.json")
	default:
		return nil, badArchive("it has neither manifest.json nor index.json; use import for the tar of a root file system")
	}
}

func dockerImages(a *archive) ([]archived, error) {
	b, err := a.document("manifest.json")
	if err != nil {
		return nil, err
	}
	var items []dockerItem
	if err := json.Unmarshal(b, &items); err != nil {
		return nil, badArchive("manifest.json: %v", err)
	}
	if len(items) > maxArchiveImages {
		return nil, badArchive("it has %d images, at most %d are loaded", len(items), maxArchiveImages)
	}
	var images []archived
	for _, item := range items {
		if len(item.Layers) > maxLayers {
			return nil, badArchive("image has %d layers, at most %d can be stacked", len(item.Layers), maxLayers)
		}
		img := archived{names: item.RepoTags}
		if img.config, err = a.document(item.Config); err != nil {
			return nil, err
		}
		for _, l := range item.Layers {
			img.layers = append(img.layers, func(context.Context) (*io.SectionReader, error) { return a.open(l) })
		}
		images = append(images, img)
	}
	return images, nil
}
