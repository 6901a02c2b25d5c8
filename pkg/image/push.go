package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image/registry"
)

// PushRequest is one image to push.
type PushRequest struct {
	// Ref is the name, with a tag, which an image must have.
	Ref string
	// Auth is the credentials that came with the request, nil for none.
	Auth *Auth
	// Auths are credentials by registry, for layers that have to be fetched from
	// where they came.
	Auths map[string]*Auth
	// Recompress makes new blobs of layers whose own cannot be had. The image
	// then gets another digest.
	Recompress bool
	// OnProgress, if set, is told from one goroutine at a time. It must not wait
	// for long.
	OnProgress func(Progress)
}

// Pushed is the outcome of a push.
type Pushed struct {
	// Digest is that of the manifest.
	Digest digest.Digest
	// Size is that of the manifest.
	Size int64
	// Kept says that it is the manifest the image was pulled with.
	Kept bool
}

// pushAttempts is how often a blob is sent where the registry does not answer.
const pushAttempts = 3

// Push sends an image to the registry of one of its names. What the registry
// has is not sent. An image that was pulled keeps its manifest to the byte: its
// compressed layers come from the store where it keeps them, else from another
// repository of the same registry, else from where the image was pulled from.
// Layers that were made here are compressed now, always to the same bytes.
func (s *Store) Push(ctx context.Context, r PushRequest) (Pushed, error) {
	named, err := ParseReference(r.Ref)
	if err != nil {
		return Pushed{}, err
	}
	if _, ok := named.(reference.Tagged); !ok || strings.Contains(named.String(), "@") {
		return Pushed{}, fmt.Errorf("%q has no tag to push to: %w", r.Ref, errdefs.ErrInvalidArgument)
	}
	done, err := s.begin()
	if err != nil {
		return Pushed{}, err
	}
	defer done()
	// Close ends the push as well.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errClosed) })() //nolint:contextcheck // the life of the store is another

	st, release, err := s.useImage(named.String())
	if err != nil {
		return Pushed{}, err
	}
	defer release()
	p := &push{store: s, request: r, named: named, image: st, progress: newReporter(r.OnProgress)}
	pushed, err := p.run(ctx)
	if err != nil {
		if errors.Is(err, ErrRegistryUnavailable) {
			return Pushed{}, fmt.Errorf("%w: push image %s: %s", ErrRegistryUnavailable, named, strings.ReplaceAll(err.Error(), ErrRegistryUnavailable.Error()+": ", ""))
		}
		return Pushed{}, fmt.Errorf("push image %s: %w", named, err)
	}
	return pushed, nil
}

// useImage finds an image and takes its references until release is called.
func (s *Store) useImage(ref string) (st *stored, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.Resolve(ref)
	if err != nil {
		return nil, nil, err
	}
	st = s.images[digest.Digest(img.ID)]
	if st == nil {
		return nil, nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	s.refImage(st)
	return st, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unrefImage(st)
	}), nil
}

// push is one push under way.
type push struct {
	store    *Store
	request  PushRequest
	named    reference.Named
	image    *stored
	progress *reporter
	session  *registry.Session
}

// run pushes blobs, then the manifest: whoever sees it finds all it names.
func (p *push) run(ctx context.Context) (Pushed, error) {
	session, err := p.store.newSession(ctx, p.named, p.request.Auth)
	if err != nil {
		return Pushed{}, err
	}
	defer session.Close()
	p.session = session
	mediaType, content, blobs, err := p.pushContent(ctx)
	if err != nil {
		return Pushed{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if err := session.PushManifest(ctx, desc, content, p.named.(reference.Tagged).Tag()); err != nil { //nolint:forcetypeassert // Push has looked
		return Pushed{}, err
	}
	kept := p.image.record.Manifest == desc.Digest
	if err := p.note(ctx, desc, content, blobs); err != nil {
		return Pushed{}, fmt.Errorf("note what was pushed: %w", err)
	}
	return Pushed{Digest: desc.Digest, Size: desc.Size, Kept: kept}, nil
}

// pushContent pushes all blobs and returns the manifest that names them.
func (p *push) pushContent(ctx context.Context) (mediaType string, content []byte, blobs []origin, err error) {
	if p.image.record.Manifest != "" {
		mediaType, content, blobs, err = p.pushAsPulled(ctx)
		if err == nil || !p.request.Recompress || !errors.Is(err, errBlobGone) {
			return mediaType, content, blobs, err
		}
	}
	if p.image.artifact != nil {
		return "", nil, nil, fmt.Errorf("artifact %s has no manifest: %w", p.image.record.ID, errdefs.ErrFailedPrecondition)
	}
	return p.pushAnew(ctx)
}

// pushAsPulled pushes what the image's manifest names.
func (p *push) pushAsPulled(ctx context.Context) (string, []byte, []origin, error) {
	m, content, err := p.store.manifestOf(p.image)
	if err != nil {
		return "", nil, nil, err
	}
	var blobs []origin
	for i, l := range m.Layers {
		diffID := blobLayer(l.Digest)
		if p.image.artifact == nil {
			diffID = p.image.config.RootFS.DiffIDs[i]
		}
		blobs = joinOrigins(blobs, []origin{newOrigin(diffID, l, p.named.Name())})
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(p.store.config.MaxParallelLayers)
	for i := range blobs {
		group.Go(guarded(ctx, "push of a layer", func() error {
			desc := blobs[i].descriptor()
			known := p.known(blobs[i])
			blobs[i].Own = known.Own
			return p.pushLayer(groupCtx, desc, known)
		}))
	}
	group.Go(guarded(ctx, "push of a config", func() error { return p.pushConfig(groupCtx, m.Config) }))
	if err := group.Wait(); err != nil {
		return "", nil, nil, err
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	return mediaType, content, blobs, nil
}

// guarded is f for a goroutine of its own, which a panic must not make the
// daemon's end.
func guarded(ctx context.Context, what string, f func() error) func() error {
	return func() error { return guard.Call(klog.FromContext(ctx), what, f) }
}

// known is what the record knows of a blob's whereabouts.
func (p *push) known(o origin) origin {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	want := o.descriptor().Digest
	o.Blobs = nil
	for _, other := range append(p.image.origins(p.store), p.store.originsElsewhere([]digest.Digest{o.DiffID})...) {
		if other.DiffID == o.DiffID && other.descriptor().Digest == want {
			o.Own = o.Own || other.Own
			for _, b := range other.Blobs {
				if !slices.Contains(o.Blobs, b) {
					o.Blobs = append(o.Blobs, b)
				}
			}
		}
	}
	return o
}

// pushConfig pushes the config, which is a blob of the store.
func (p *push) pushConfig(ctx context.Context, desc ocispec.Descriptor) error {
	content, err := p.store.loadBlob(blobRef{Digest: desc.Digest, Size: desc.Size})
	if err != nil {
		return err
	}
	_, err = p.session.PushBlob(ctx, desc, nil, func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(content))), nil
	})
	return err
}

// pushAnew makes a manifest for an image that has none. Layers that came from a
// registry stay as they are there, if they can be had; the others are compressed.
func (p *push) pushAnew(ctx context.Context) (string, []byte, []origin, error) {
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: p.image.record.ID}
	for _, b := range p.image.record.Blobs {
		if b.Digest == config.Digest {
			config.Size = b.Size
		}
	}
	layers := uniqueDigests(p.image.record.Layers)
	blobs := make([]origin, len(layers))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(p.store.config.MaxParallelLayers)
	for i, d := range layers {
		group.Go(guarded(ctx, "push of a layer", func() (err error) {
			blobs[i], err = p.pushAnyForm(groupCtx, d)
			return err
		}))
	}
	group.Go(guarded(ctx, "push of a config", func() error { return p.pushConfig(groupCtx, config) }))
	if err := group.Wait(); err != nil {
		return "", nil, nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}
	for _, d := range p.image.config.RootFS.DiffIDs {
		for _, b := range blobs {
			if b.DiffID == d {
				m.Layers = append(m.Layers, b.descriptor())
			}
		}
	}
	content, err := json.Marshal(m)
	return m.MediaType, content, blobs, err
}

// pushAnyForm pushes a layer as a registry has it, else compressed here.
func (p *push) pushAnyForm(ctx context.Context, d digest.Digest) (origin, error) {
	for _, o := range p.candidates(d) {
		desc := o.descriptor()
		if desc.Digest == "" || o.Own {
			continue
		}
		err := p.pushLayer(ctx, desc, o)
		if err == nil {
			return newOrigin(d, desc, p.named.Name()), nil
		}
		if !errors.Is(err, errBlobGone) {
			return origin{}, err
		}
	}
	p.progress.tell(Progress{Layer: d, Status: "Compressing"})
	blob, err := p.store.compressLayer(ctx, d)
	if err != nil {
		return origin{}, err
	}
	defer blob.file.Close()
	o := newOrigin(d, blob.desc, p.named.Name())
	o.Own = true
	return o, p.send(ctx, blob.desc, d, o, func(context.Context) (io.ReadCloser, error) { return blob.open(), nil })
}

func (p *push) candidates(d digest.Digest) []origin {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	var found []origin
	for _, o := range append(p.image.origins(p.store), p.store.originsElsewhere([]digest.Digest{d})...) {
		if o.DiffID == d {
			found = append(found, o)
		}
	}
	return found
}

// note adds to the image's record what the push has shown.
func (p *push) note(_ context.Context, desc ocispec.Descriptor, content []byte, blobs []origin) error {
	s := p.store
	ref := blobRef{Digest: desc.Digest, Size: desc.Size}
	s.mu.Lock()
	s.refBlob(ref.Digest, ref.Size)
	have := s.blobs[ref.Digest].stored
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unrefBlob(ref.Digest)
	}()
	if !have {
		s.commits.Lock()
		defer s.commits.Unlock()
		if err := errors.Join(s.storeBlob(ref.Digest, content), s.syncRoot()); err != nil {
			return err
		}
	}
	err := s.amend(p.image.record.ID, func(r *imageRecord) {
		r.Manifest = desc.Digest
		r.Blobs = joinBlobs(r.Blobs, []blobRef{ref})
		r.Origins = joinOrigins(blobs, r.Origins)
	}, p.named.Name()+"@"+desc.Digest.String())
	if errdefs.IsNotFound(err) {
		return nil // removed meanwhile; it was pushed all the same
	}
	return err
}

// newSession begins to talk to the registry of a name.
func (s *Store) newSession(ctx context.Context, named reference.Named, auth *Auth) (*registry.Session, error) {
	return registry.NewSession(ctx, registry.Config{
		CertsDirs:     s.config.CertsDirs,
		AuthFiles:     s.config.AuthFiles,
		TrustedRealms: s.config.TrustedRealms,
		HelperTimeout: s.config.HelperTimeout,
	}, named, auth)
}

// send pushes one blob, again where the registry did not answer, and tells how
// far it is.
func (p *push) send(ctx context.Context, desc ocispec.Descriptor, layer digest.Digest, o origin, open func(context.Context) (io.ReadCloser, error)) error {
	var from []string
	for _, r := range o.repositories() {
		if reference.Domain(r) == reference.Domain(p.named) {
			from = append(from, reference.Path(r))
		}
	}
	var err error
	for attempt := range pushAttempts {
		var sent atomic.Int64
		var up registry.Upload
		up, err = p.session.PushBlob(ctx, desc, from, func(ctx context.Context) (io.ReadCloser, error) {
			body, err := open(ctx)
			if err != nil {
				return nil, err
			}
			sent.Store(0)
			return &countedBody{ReadCloser: body, told: func(n int) {
				p.progress.tell(Progress{Layer: layer, Status: "Pushing", Current: sent.Add(int64(n)), Total: desc.Size})
			}}, nil
		})
		if err == nil {
			status := "Pushed"
			if up.Exists {
				status = "Layer already exists"
			} else if up.MountedFrom != "" {
				status = "Mounted from " + up.MountedFrom
			}
			p.progress.tell(Progress{Layer: layer, Status: status, Current: desc.Size, Total: desc.Size})
			return nil
		}
		if !errors.Is(err, ErrRegistryUnavailable) || ctx.Err() != nil || attempt == pushAttempts-1 {
			break
		}
		if pause(ctx, retryDelay<<attempt) != nil {
			return context.Cause(ctx)
		}
	}
	return err
}

// countedBody tells of what was read.
type countedBody struct {
	io.ReadCloser
	told func(n int)
}

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.told(n)
	return n, err
}

// artifactFile opens the blob of an artifact.
func (s *Store) artifactFile(d digest.Digest) (*os.File, error) {
	return os.Open(filepath.Join(s.layerDir(d), layerDiff, artifactBlob))
}
