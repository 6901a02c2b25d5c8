package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cri-node/cri-node/pkg/image/registry"
	"github.com/cri-node/cri-node/pkg/progress"
)

// PullRequest is one image to pull.
type PullRequest struct {
	// Ref is the name, in any spelling docker takes.
	Ref string
	// Auth is the credentials that came with the request, nil for none.
	Auth *Auth
	// Namespace is that of the pod the image is for, where that is known. The
	// signature policy may have rules for it.
	Namespace string
	// Platform, such as linux/arm64, is chosen instead of the machine's.
	Platform string
	// OnProgress, if set, is told from one goroutine at a time. It must not wait
	// for long.
	OnProgress func(Progress)
}

// pullRequest is a PullRequest that has been parsed.
type pullRequest struct {
	named     reference.Named
	auth      *Auth
	namespace string
	platform  platforms.MatchComparer
	board     *board
}

// pullKey says which pulls are the same. It holds credentials, so that nobody
// gets an image through the rights of another; it must not be printed. And it
// holds the namespace, which may have a signature policy of its own.
type pullKey struct {
	ref, namespace, platform string
	auth                     Auth
}

// layerKey says which layers are the same work.
type layerKey struct{ blob, diffID digest.Digest }

// layerSource is a layer of an image and the blob it is in.
type layerSource struct {
	blob   ocispec.Descriptor
	diffID digest.Digest
	file   bool // the blob is not unpacked: see blobLayer
}

func (l layerSource) key() layerKey { return layerKey{blob: l.blob.Digest, diffID: l.diffID} }

// pulled is an image on its way into the store.
type pulled struct {
	record    imageRecord
	config    ocispec.Image
	artifact  *Artifact // nil for an image
	documents []rawDocument
	layers    []layerSource
}

// rawDocument is a manifest, index or config as it came.
type rawDocument struct {
	ref     blobRef
	content []byte
}

// Pull brings an image into the store, or learns that it is there, and returns
// its ID. Concurrent pulls of one image with the same credentials are one, and
// concurrent pulls of one layer always are; each caller waits no longer than
// its ctx, and the work ends early, without a trace, when nobody waits for it
// any more. A pull that failed on the way leaves what it downloaded, and the
// next one goes on from there.
func (s *Store) Pull(ctx context.Context, r PullRequest) (string, error) {
	named, err := ParseReference(r.Ref)
	if err != nil {
		return "", err
	}
	platform := s.config.Platform
	if r.Platform != "" {
		if platform, err = parsePlatform(r.Platform); err != nil {
			return "", err
		}
	}
	done, err := s.begin()
	if err != nil {
		return "", err
	}
	defer done()
	key := pullKey{ref: named.String(), namespace: r.Namespace, platform: r.Platform}
	if r.Auth != nil {
		key.auth = *r.Auth
	}
	stop := s.watch(ctx, key, r.OnProgress)
	id, err := s.pulls.do(ctx, s.ctx, &s.work, key, func(ctx context.Context) (string, error) {
		board, takeDown := s.boards.pull(key)
		defer takeDown()
		id, err := s.pull(ctx, pullRequest{named: named, auth: r.Auth, namespace: r.Namespace, platform: platform, board: board})
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return id.String(), late(ctx, err)
	})
	stop()
	if err == nil {
		return id, nil
	}
	for _, token := range []error{ErrSignature, ErrRegistryUnavailable} {
		if errors.Is(err, token) {
			// The token has to be the first word and should be the only one.
			text := strings.ReplaceAll(err.Error(), token.Error()+": ", "")
			return "", fmt.Errorf("%w: pull image %s: %s", token, named, text)
		}
	}
	return "", fmt.Errorf("pull image %s: %w", named, err)
}

// pull is one run of a pull, shared by all who asked for it.
func (s *Store) pull(ctx context.Context, r pullRequest) (digest.Digest, error) {
	named := r.named
	session, err := s.newSession(ctx, named, r.auth)
	if err != nil {
		return "", err
	}
	defer session.Close()

	// 1. What does the name mean now? The registry's answer also is its
	//    consent that these credentials may have the image.
	ctx = progress.Enter(ctx, "resolve")
	root, err := session.Resolve(ctx)
	if err != nil {
		return "", err
	}
	if err := validateDescriptor(root, maxDocument); err != nil {
		return "", err
	}
	refs := []string{named.String()}
	if d, ok := named.(reference.Digested); ok {
		if d.Digest() != root.Digest {
			return "", malformed("asked for %s, the registry answered with %s", d.Digest(), root.Digest)
		}
	} else {
		refs = append(refs, reference.TrimNamed(named).String()+"@"+root.Digest.String())
	}
	ctx = progress.Enter(ctx, "signature policy")
	if err := s.verify(ctx, session, r, root); err != nil {
		return "", err
	}
	if id, ok := s.known(refs, r.platform); ok {
		return id, nil
	}

	// 2. The documents, each checked before it is believed.
	ctx = progress.Enter(ctx, "manifest")
	p, err := s.fetchDocuments(ctx, session, root, r.platform)
	if err != nil {
		return "", err
	}
	p.noteOrigins(reference.TrimNamed(named).Name())

	// 3. All layers, and 4. the image.
	s.pin(p)
	err = s.fetchLayers(progress.Enter(ctx, "layers"), session, p, r.board)
	if err == nil {
		err = s.commit(progress.Enter(ctx, "commit"), p, refs)
	}
	s.unpin(p, !errors.Is(context.Cause(ctx), errAbandoned))
	if err != nil {
		return "", err
	}
	return p.record.ID, nil
}

// known takes the short way where an image has this digest in this repository
// already: only a tag may be new. It may have come for another platform, out of
// the same index.
func (s *Store) known(refs []string, want platforms.MatchComparer) (digest.Digest, bool) {
	img := s.view.Load().byName[refs[len(refs)-1]]
	if img == nil || checkPlatform(img.Config, want) != nil {
		return "", false
	}
	if s.view.Load().byName[refs[0]] == img {
		return digest.Digest(img.ID), true
	}
	s.mu.Lock()
	st := s.images[digest.Digest(img.ID)]
	if st != nil {
		s.refImage(st) // against a Remove in this moment
	}
	s.mu.Unlock()
	if st == nil {
		return "", false
	}
	record := st.record
	record.Names, record.PulledAt = nil, time.Now().UTC()
	err := s.publish(&stored{record: record, config: st.config, artifact: st.artifact}, refs)
	s.mu.Lock()
	s.unrefImage(st)
	s.mu.Unlock()
	return st.record.ID, err == nil
}

// fetchDocuments follows an index to the manifest for this machine and its
// config.
func (s *Store) fetchDocuments(ctx context.Context, session *registry.Session, root ocispec.Descriptor, want platforms.MatchComparer) (*pulled, error) {
	p := &pulled{}
	desc, fromIndex := root, false
	for depth := 0; ; depth++ {
		if depth == maxIndexDepth {
			return nil, malformed("index of indexes is more than %d deep", maxIndexDepth)
		}
		b, err := s.fetchDocument(ctx, session, asManifest(desc))
		if err != nil {
			return nil, err
		}
		p.add(desc, b)
		doc, err := parseDocument(desc.MediaType, b)
		if err != nil {
			return nil, err
		}
		if doc.index != nil {
			fromIndex = true
			if desc, err = choosePlatform(doc.index, want); err != nil {
				return nil, err
			}
			continue
		}
		config, err := s.fetchDocument(ctx, session, doc.manifest.Config)
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		p.add(doc.manifest.Config, config)
		p.record.Manifest, p.record.PulledAt = desc.Digest, time.Now().UTC()
		if doc.artifact != nil {
			return p, s.addArtifact(p, doc.artifact)
		}
		if p.config, err = parseConfig(config, len(doc.manifest.Layers)); err != nil {
			return nil, err
		}
		if !fromIndex {
			if err := checkPlatform(p.config, want); err != nil {
				return nil, err
			}
		}
		p.layers = uniqueLayers(doc.manifest, p.config)
		p.record.ID = doc.manifest.Config.Digest
		p.addLayers()
		return p, nil
	}
}

// addArtifact completes what was pulled with the files of an artifact. Its ID
// is the manifest's digest: the same empty config serves most of them.
func (s *Store) addArtifact(p *pulled, a *Artifact) error {
	if size, most := a.size(), s.config.Limits.MaxBytes; size > most {
		return fmt.Errorf("artifact holds %d bytes, at most %d are allowed: %w", size, most, errdefs.ErrResourceExhausted)
	}
	p.artifact = a
	p.layers = a.layers()
	p.record.ID, p.record.Artifact = p.record.Manifest, true
	p.addLayers()
	return nil
}

func (p *pulled) addLayers() {
	for _, l := range p.layers {
		p.record.Layers = append(p.record.Layers, l.diffID)
	}
}

// asManifest gives a descriptor a type that the registry API keeps under
// manifests: some registries name none that means anything.
func asManifest(d ocispec.Descriptor) ocispec.Descriptor {
	if !manifestType(d.MediaType) && !indexType(d.MediaType) {
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	return d
}

func (p *pulled) add(desc ocispec.Descriptor, content []byte) {
	ref := blobRef{Digest: desc.Digest, Size: desc.Size}
	if !slices.Contains(p.record.Blobs, ref) {
		p.record.Blobs = append(p.record.Blobs, ref)
		p.documents = append(p.documents, rawDocument{ref: ref, content: content})
	}
}

// fetchDocument reads a small blob whole and verifies it.
func (s *Store) fetchDocument(ctx context.Context, session *registry.Session, desc ocispec.Descriptor) ([]byte, error) {
	d := s.newDownload(ctx, session, desc)
	b, err := io.ReadAll(d)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, malformed("fetch %s: content has digest %s", desc.Digest, got)
	}
	return b, nil
}

// pin keeps everything a pull needs from being collected.
func (s *Store) pin(p *pulled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range p.layers {
		s.refLayer(l.diffID)
	}
	for _, d := range p.documents {
		s.refBlob(d.ref.Digest, d.ref.Size)
	}
}

func (s *Store) unpin(p *pulled, keepPartial bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range p.layers {
		s.unrefLayer(l.diffID, keepPartial)
	}
	for _, d := range p.documents {
		s.unrefBlob(d.ref.Digest)
	}
}

// fetchLayers brings all layers that are not there into staging, the biggest
// first, because the last one to finish is what the pull waits for.
func (s *Store) fetchLayers(ctx context.Context, session *registry.Session, p *pulled, shown *board) error {
	show, leave := s.showLayers(p)
	defer leave()
	shown.show(show)
	order := slices.Clone(p.layers)
	slices.SortStableFunc(order, func(a, b layerSource) int { return cmp.Compare(b.blob.Size, a.blob.Size) })
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range order {
		if s.hasLayer(l.diffID) {
			continue
		}
		group.Go(func() error {
			_, err := s.layerPulls.do(ctx, s.ctx, &s.work, l.key(), func(ctx context.Context) (struct{}, error) {
				// The run may outlive this pull, if another waits for it too.
				defer session.Close()
				return struct{}{}, late(ctx, s.stage(ctx, session, l))
			})
			if err != nil {
				return fmt.Errorf("layer %s: %w", l.blob.Digest, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// showLayers makes the boards of all layers of a pull, in their order.
func (s *Store) showLayers(p *pulled) (show []*layerBoard, leave func()) {
	for _, l := range p.layers {
		b := s.boards.layer(l)
		if s.hasLayer(l.diffID) && *b.status.Load() == statusWaiting {
			b.set(statusExists)
		}
		show = append(show, b)
	}
	return show, func() {
		for _, l := range p.layers {
			s.boards.leave(l)
		}
	}
}

// noteOrigins notes where the layers of an image are.
func (p *pulled) noteOrigins(repository string) {
	if p.artifact != nil {
		return
	}
	for _, l := range p.layers {
		p.record.Origins = append(p.record.Origins, newOrigin(l.diffID, l.blob, repository))
	}
}

func (s *Store) hasLayer(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.layers[d]
	return l != nil && l.state != layerAbsent
}
