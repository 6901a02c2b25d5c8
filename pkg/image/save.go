package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Formats of an archive.
const (
	// DockerArchive is what docker save writes: manifest.json, and the same
	// images as an OCI layout of uncompressed layers.
	DockerArchive = "docker-archive"
	// OCIArchive is an OCI layout. An image whose compressed layers are in the
	// store, or were made here, has the manifest it is pushed with.
	OCIArchive = "oci-archive"
)

// Save writes images, by name or ID, as an archive. Those given by name have
// that name in it. The same images are always the same bytes.
func (s *Store) Save(ctx context.Context, refs []string, format string, w io.Writer) error {
	if len(refs) == 0 || len(refs) > maxArchiveImages {
		return fmt.Errorf("save %d images, want 1 to %d: %w", len(refs), maxArchiveImages, errdefs.ErrInvalidArgument)
	}
	if format != DockerArchive && format != OCIArchive {
		return fmt.Errorf("format %.100q is neither %s nor %s: %w", format, DockerArchive, OCIArchive, errdefs.ErrInvalidArgument)
	}
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	out := &saving{store: s, ctx: ctx, w: tar.NewWriter(w), written: map[string]bool{}}
	items, err := out.choose(refs)
	defer out.release()
	if err != nil {
		return err
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := out.w.WriteHeader(archiveHeader(dir, tar.TypeDir, 0)); err != nil {
			return err
		}
	}
	for _, item := range items {
		if err := out.image(item, format); err != nil {
			return fmt.Errorf("save image %s: %w", item.image.record.ID, err)
		}
	}
	return out.finish(items, format)
}

// saving is one Save under way.
type saving struct {
	store   *Store
	ctx     context.Context //nolint:containedctx // the life of a saving is that of one call
	w       *tar.Writer
	held    []func()
	written map[string]bool
	index   ocispec.Index
}

// savedItem is an image to save, with the names to give it.
type savedItem struct {
	image *stored
	names []reference.Named
	// layers are file names in the archive, in the form of manifest.json.
	layers []string
}

func (o *saving) release() {
	for _, release := range o.held {
		release()
	}
}

// choose finds the images and holds them.
func (o *saving) choose(refs []string) ([]*savedItem, error) {
	var items []*savedItem
	for _, ref := range refs {
		st, release, err := o.store.useImage(ref)
		if err != nil {
			return nil, err
		}
		o.held = append(o.held, release)
		if st.artifact != nil {
			return nil, fmt.Errorf("%s is an artifact, which an archive cannot hold: %w", ref, errdefs.ErrInvalidArgument)
		}
		i := slices.IndexFunc(items, func(item *savedItem) bool { return item.image.record.ID == st.record.ID })
		if i < 0 {
			i = len(items)
			items = append(items, &savedItem{image: st})
		}
		named, err := ParseReference(ref)
		isName := err == nil && slices.ContainsFunc(st.record.Names, func(n name) bool { return n.Ref == named.String() })
		again := isName && slices.ContainsFunc(items[i].names, func(n reference.Named) bool { return n.String() == named.String() })
		if _, tagged := named.(reference.Tagged); isName && tagged && !again {
			items[i].names = append(items[i].names, named)
		}
	}
	return items, nil
}

// image writes the blobs of an image.
func (o *saving) image(item *savedItem, format string) error {
	config, err := o.store.loadBlob(blobRef{Digest: item.image.record.ID})
	if err != nil {
		return err
	}
	configDesc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: item.image.record.ID, Size: int64(len(config))}
	var manifest []byte
	if format == OCIArchive {
		if manifest, err = o.pushedForm(item); err != nil {
			return err
		}
	}
	if manifest == nil {
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc, Layers: []ocispec.Descriptor{}}
		for _, d := range item.image.config.RootFS.DiffIDs {
			desc, err := o.layer(item.image, d, format)
			if err != nil {
				return err
			}
			m.Layers = append(m.Layers, desc)
			item.layers = append(item.layers, blobName(desc.Digest))
		}
		if manifest, err = json.Marshal(m); err != nil {
			return err
		}
	}
	desc := ocispec.Descriptor{MediaType: mediaTypeOf(manifest), Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	if err := errors.Join(o.bytes(blobName(configDesc.Digest), config), o.bytes(blobName(desc.Digest), manifest)); err != nil {
		return err
	}
	if len(item.names) == 0 {
		o.index.Manifests = append(o.index.Manifests, desc)
	}
	for _, n := range item.names {
		named := desc
		named.Annotations = map[string]string{annotationName: n.String(), ocispec.AnnotationRefName: n.(reference.Tagged).Tag()} //nolint:forcetypeassert // choose has looked
		o.index.Manifests = append(o.index.Manifests, named)
	}
	return nil
}

func mediaTypeOf(manifest []byte) string {
	var m ocispec.Manifest
	if json.Unmarshal(manifest, &m) == nil && m.MediaType != "" {
		return m.MediaType
	}
	return ocispec.MediaTypeImageManifest
}

// pushedForm writes the layers as the image's manifest has them, and returns
// that; or nothing, where they are not all to be had here.
func (o *saving) pushedForm(item *savedItem) ([]byte, error) {
	if item.image.record.Manifest == "" {
		return nil, nil
	}
	m, content, err := o.store.manifestOf(item.image)
	if err != nil || len(m.Layers) != len(item.image.config.RootFS.DiffIDs) {
		return nil, err
	}
	var blobs []*os.File
	defer func() {
		for _, f := range blobs {
			_ = f.Close() // was only read
		}
	}()
	for i, l := range m.Layers {
		f, err := o.localBlob(item.image, l, item.image.config.RootFS.DiffIDs[i])
		if err != nil || f == nil {
			return nil, err
		}
		blobs = append(blobs, f)
	}
	for i, l := range m.Layers {
		if err := o.file(blobName(l.Digest), l.Size, func(w io.Writer) error {
			_, err := io.Copy(w, io.NewSectionReader(blobs[i], 0, l.Size))
			return err
		}); err != nil {
			return nil, err
		}
	}
	return content, nil
}

// localBlob opens a blob that is kept, or that can be made to the byte; nil if
// it is neither.
func (o *saving) localBlob(st *stored, desc ocispec.Descriptor, diffID digest.Digest) (*os.File, error) {
	f, err := os.Open(o.store.blobPath(desc.Digest))
	if err == nil {
		return f, nil
	}
	own := slices.ContainsFunc(st.record.Origins, func(r origin) bool { return r.DiffID == diffID && r.Own })
	if !own {
		return nil, nil //nolint:nilnil // documented
	}
	c, err := o.store.compressLayer(o.ctx, diffID)
	if err != nil {
		return nil, err
	}
	if c.desc.Digest != desc.Digest {
		return nil, c.Close()
	}
	return c.file, nil
}

// layer writes a layer: as a plain tar, or for an OCI archive compressed.
func (o *saving) layer(st *stored, d digest.Digest, format string) (ocispec.Descriptor, error) {
	if format == OCIArchive && o.store.tarSize(d) > 0 {
		c, err := o.store.compressLayer(o.ctx, d)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		defer c.file.Close()
		return c.desc, o.file(blobName(c.desc.Digest), c.desc.Size, func(w io.Writer) error {
			_, err := io.Copy(w, c)
			return err
		})
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: o.store.tarSize(d)}
	if desc.Size > 0 {
		return desc, o.file(blobName(d), desc.Size, func(w io.Writer) error { return o.store.writeTar(o.ctx, d, w) })
	}
	f, size, err := o.store.fetchTar(o.ctx, st, d)
	if err != nil {
		return desc, err
	}
	defer f.Close()
	desc.Size = size
	return desc, o.file(blobName(d), size, func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{o.ctx, io.NewSectionReader(f, 0, size)})
		return err
	})
}

// finish writes what says what the blobs are.
func (o *saving) finish(items []*savedItem, format string) error {
	o.index.SchemaVersion, o.index.MediaType = 2, ocispec.MediaTypeImageIndex
	index, err := json.Marshal(o.index)
	if err != nil {
		return err
	}
	if err := errors.Join(o.bytes("index.json", index), o.bytes(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))); err != nil {
		return err
	}
	if format == DockerArchive {
		list := []dockerItem{}
		for _, item := range items {
			entry := dockerItem{Config: blobName(item.image.record.ID), Layers: item.layers, RepoTags: []string{}}
			for _, n := range item.names {
				entry.RepoTags = append(entry.RepoTags, reference.FamiliarString(n))
			}
			list = append(list, entry)
		}
		b, err := json.Marshal(list)
		if err != nil {
			return err
		}
		if err := o.bytes("manifest.json", b); err != nil {
			return err
		}
	}
	return o.w.Close()
}

func (o *saving) bytes(name string, b []byte) error {
	return o.file(name, int64(len(b)), func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(b))
		return err
	})
}

// file writes one file, unless it was written before.
func (o *saving) file(name string, size int64, write func(io.Writer) error) error {
	if o.written[name] {
		return nil
	}
	o.written[name] = true
	if err := o.w.WriteHeader(archiveHeader(name, tar.TypeReg, size)); err != nil {
		return err
	}
	return write(o.w)
}

func archiveHeader(name string, kind byte, size int64) *tar.Header {
	mode := int64(0o444)
	if kind == tar.TypeDir {
		mode = 0o755
	}
	return &tar.Header{Name: name, Typeflag: kind, Size: size, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// fetchTar brings back the tar of a layer that the store cannot make any more,
// in a file without a name.
func (s *Store) fetchTar(ctx context.Context, st *stored, d digest.Digest) (*os.File, int64, error) {
	err := fmt.Errorf("layer %s: %w", d, errNoTar)
	s.mu.Lock()
	origins := append(st.origins(s), s.originsElsewhere([]digest.Digest{d})...)
	s.mu.Unlock()
	for _, o := range origins {
		for _, repository := range o.repositories() {
			if o.DiffID != d || ctx.Err() != nil {
				break
			}
			blob, fetchErr := s.fetchBlob(ctx, o.descriptor(), repository, nil)
			if fetchErr != nil {
				err = errors.Join(err, fmt.Errorf("fetch it from %s: %w", repository.Name(), fetchErr))
				continue
			}
			f, n, fetchErr := s.plainFile(blob, d)
			fetchErr = errors.Join(fetchErr, blob.Close())
			if fetchErr == nil {
				return f, n, nil
			}
			err = errors.Join(err, fetchErr)
		}
	}
	return nil, 0, err
}

// plainFile decompresses a blob into a file without a name.
func (s *Store) plainFile(blob io.Reader, d digest.Digest) (*os.File, int64, error) {
	plain, err := decompress(blob)
	if err != nil {
		return nil, 0, err
	}
	defer plain.Close()
	f, err := s.namelessFile()
	if err != nil {
		return nil, 0, err
	}
	sum := d.Algorithm().Hash()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(plain, s.config.Limits.MaxBytes))
	if err == nil {
		if got := encoded(d.Algorithm(), sum); got != d {
			err = malformed("layer %s was fetched with diff id %s", d, got)
		}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, n, nil
}
