package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/registry"
)

// errBlobGone: nobody has the compressed form of a layer any more.
var errBlobGone = errors.New("compressed layer is gone")

// pushLayer pushes a layer in exactly the form that desc says. Errors that are
// errBlobGone mean that it is nowhere to be had.
func (p *push) pushLayer(ctx context.Context, desc ocispec.Descriptor, o origin) error {
	p.progress.tell(Progress{Layer: desc.Digest, Status: "Waiting", Total: desc.Size})
	return p.send(ctx, desc, desc.Digest, o, func(ctx context.Context) (io.ReadCloser, error) {
		return p.openBlob(ctx, desc, o)
	})
}

// openBlob finds the bytes of a blob: in the store, by making them again, or
// where the image came from.
func (p *push) openBlob(ctx context.Context, desc ocispec.Descriptor, o origin) (io.ReadCloser, error) {
	s := p.store
	if f, err := os.Open(s.blobPath(desc.Digest)); err == nil {
		return f, nil
	}
	if p.image.artifact != nil {
		return s.artifactFile(o.DiffID)
	}
	if desc.Digest == o.DiffID && s.tarSize(o.DiffID) == desc.Size {
		return s.openTar(ctx, o.DiffID), nil
	}
	if o.Own {
		if blob, err := s.compressLayer(ctx, o.DiffID); err == nil {
			if blob.desc.Digest == desc.Digest {
				return blob, nil
			}
			_ = blob.Close() // it was only read: another version compresses in another way
		}
	}
	var tried []string
	for _, repository := range o.repositories() {
		if len(tried) == 3 {
			break
		}
		tried = append(tried, repository.Name())
		body, err := p.fetch(ctx, desc, repository)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// Not the token that an unreachable target is known by.
		tried[len(tried)-1] += " (" + strings.ReplaceAll(err.Error(), ErrRegistryUnavailable.Error()+": ", "") + ")"
	}
	where := "and nobody knows where it came from"
	if len(tried) > 0 {
		where = "and cannot be had from " + strings.Join(tried, ", ")
	}
	return nil, fmt.Errorf("%w: layer %s was not kept in the form it was pulled in, %s; "+
		"to keep such layers, set image.keep_compressed, remove the image and pull it again; "+
		"or push with --recompress, which gives the image another digest: %w", errBlobGone, desc.Digest, where, errdefs.ErrFailedPrecondition)
}

// fetch opens a blob in the repository it came from.
func (p *push) fetch(ctx context.Context, desc ocispec.Descriptor, repository reference.Named) (io.ReadCloser, error) {
	auth := p.request.Auths[reference.Domain(repository)]
	if auth == nil && reference.Domain(repository) == reference.Domain(p.named) {
		auth = p.request.Auth
	}
	return p.store.fetchBlob(ctx, desc, repository, auth)
}

// fetchBlob opens a blob that a repository has.
func (s *Store) fetchBlob(ctx context.Context, desc ocispec.Descriptor, repository reference.Named, auth *Auth) (io.ReadCloser, error) {
	named, err := reference.WithDigest(repository, desc.Digest)
	if err != nil {
		return nil, err
	}
	session, err := s.newSession(ctx, named, auth)
	if err != nil {
		return nil, err
	}
	has, err := session.HasBlob(ctx, desc.Digest)
	if err == nil && !has {
		err = fmt.Errorf("it has no blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		session.Close()
		return nil, err
	}
	return &fetched{download: s.newDownload(ctx, session, desc), session: session}, nil
}

// fetched is a blob on its way from another registry.
type fetched struct {
	*download
	session *registry.Session
}

func (f *fetched) Close() error {
	err := f.download.Close()
	f.session.Close()
	return err
}

// openTar is writeTar as a reader.
func (s *Store) openTar(ctx context.Context, d digest.Digest) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	t := &tarReader{PipeReader: r, cancel: cancel}
	t.writing.Go(func() {
		w.CloseWithError(guarded(ctx, "export of a layer", func() error { return s.writeTar(ctx, d, w) })())
	})
	return t
}

type tarReader struct {
	*io.PipeReader
	cancel  context.CancelFunc
	writing sync.WaitGroup
}

func (t *tarReader) Close() error {
	t.cancel()
	err := t.PipeReader.Close()
	t.writing.Wait()
	return err
}

// compressed is a layer as a blob, in a file without a name: a crash leaves
// nothing.
type compressed struct {
	*io.SectionReader
	file *os.File
	desc ocispec.Descriptor
}

// Close lets go of the file.
func (c *compressed) Close() error { return c.file.Close() }

// open reads the blob from its beginning. The file stays open.
func (c *compressed) open() io.ReadCloser {
	return io.NopCloser(io.NewSectionReader(c.file, 0, c.desc.Size))
}

// compressLayer makes the blob of a layer: gzip, always by the same code at
// the same level, with a header that says nothing, so that the same layer is the
// same blob whenever and wherever it is made.
func (s *Store) compressLayer(ctx context.Context, d digest.Digest) (*compressed, error) {
	f, err := s.namelessFile()
	if err != nil {
		return nil, err
	}
	sum := countedHash{Hash: sha256.New()}
	z := gzip.NewWriter(io.MultiWriter(f, &sum))
	err = s.writeTar(ctx, d, z)
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("compress layer %s: %w", d, err), f.Close())
	}
	return &compressed{
		SectionReader: io.NewSectionReader(f, 0, sum.n), file: f,
		desc: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, sum.Hash), Size: sum.n},
	}, nil
}

// namelessFile makes a file in the store that goes with its last user.
func (s *Store) namelessFile() (*os.File, error) {
	f, err := os.CreateTemp(s.path(dirStaging), "")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// pause waits, or returns the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
