package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/layer"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Layer is a layer that was made here. It stays in the store until Release, and
// as long as an image, a rootfs or a hold needs it.
type Layer struct {
	// DiffID names it: the digest of its tar.
	DiffID digest.Digest
	// Size is what it takes on disk.
	Size int64

	release func()
}

// Release lets go of the layer. It may be called again.
func (l *Layer) Release() { l.release() }

// AddLayer unpacks a tar, plain or compressed with gzip or zstd, as a layer of
// the store. parents are the diff IDs of the layers that it is to lie upon,
// lowest first: directories that it does not list look as they do there. They
// must be in the store and stay there meanwhile.
//
// The tar can be made again from the layer to the byte. Where it cannot, as it
// lists a file twice, what was unpacked is packed anew and has another diff ID
// than r; but if r is an io.Seeker, the tar is kept as it came.
//
// The caller must Release the layer. r must end when ctx does.
func (s *Store) AddLayer(ctx context.Context, r io.Reader, parents []digest.Digest) (*Layer, error) {
	done, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	dir, err := os.MkdirTemp(s.path(dirStaging), "")
	if err != nil {
		return nil, err
	}
	diffID, result, err := s.unpackLocal(ctx, r, dir)
	if err != nil {
		s.discard(dir)
		return nil, fmt.Errorf("add layer: %w", err)
	}
	if result.Inexact && result.tarSize == 0 {
		defer s.discard(dir)
		return s.repack(ctx, dir, parents)
	}
	return s.placeLayer(ctx, dir, newLayerUsage(diffID, result), parents)
}

// unpackLocal unpacks what comes in r and learns its diff ID.
func (s *Store) unpackLocal(ctx context.Context, r io.Reader, dir string) (digest.Digest, applied, error) {
	seeker, seekable := r.(io.Seeker)
	var start int64
	if seekable {
		var err error
		if start, err = seeker.Seek(0, io.SeekCurrent); err != nil {
			seekable = false
		}
	}
	plain, err := decompress(&contextReader{ctx, r})
	if err != nil {
		return "", applied{}, err
	}
	defer plain.Close()
	lineCtx, cancel := context.WithCancel(ctx)
	var line sync.WaitGroup
	content := s.newPump(lineCtx, sha256.New())
	line.Go(func() { content.run(plain) })
	result, err := s.apply(lineCtx, content, dir)
	cancel()
	line.Wait()
	if err == nil {
		err = result.settle(dir, content.total)
	}
	if err != nil {
		return "", applied{}, err
	}
	diffID := content.digest(digest.SHA256)
	if result.Inexact && seekable {
		if _, err := seeker.Seek(start, io.SeekStart); err != nil {
			return "", applied{}, err
		}
		again, err := decompress(&contextReader{ctx, r})
		if err != nil {
			return "", applied{}, err
		}
		defer again.Close()
		if err := result.keepTar(ctx, again, dir); err != nil {
			return "", applied{}, err
		}
	}
	return diffID, result, nil
}

// repack makes a layer of what another one was unpacked to.
func (s *Store) repack(ctx context.Context, dir string, parents []digest.Digest) (*Layer, error) {
	return s.addPiped(ctx, parents, func(ctx context.Context, w io.Writer) error {
		return layer.Export(ctx, filepath.Join(dir, layerDiff), w)
	})
}

// addPiped is AddLayer of what write writes.
func (s *Store) addPiped(ctx context.Context, parents []digest.Digest, write func(context.Context, io.Writer) error) (*Layer, error) {
	r, w := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { w.CloseWithError(guarded(ctx, "export of a layer", func() error { return write(ctx, w) })()) })
	l, err := s.AddLayer(ctx, r, parents)
	_ = r.Close() // makes the writer end, and never fails
	writing.Wait()
	return l, err
}

// placeLayer moves what was unpacked to its place. It takes ownership of dir.
func (s *Store) placeLayer(ctx context.Context, dir string, record layerUsage, parents []digest.Digest) (*Layer, error) {
	if err := linux.SaveRecord(filepath.Join(dir, layerRecord), record, linux.SurviveProcess); err != nil {
		s.discard(dir)
		return nil, err
	}
	release, err := s.holdLayers(parents)
	if err != nil {
		s.discard(dir)
		return nil, fmt.Errorf("parents of the layer: %w", err)
	}
	defer release()
	s.mu.Lock()
	s.refLayer(record.DiffID)
	e := s.layers[record.DiffID]
	if e.state == layerAbsent {
		e.state, e.dir = layerStaged, dir
		e.describe(record)
		e.implied = record.implied()
	} else {
		s.discard(dir) // another has brought it
	}
	s.mu.Unlock()
	l := &Layer{DiffID: record.DiffID, Size: record.Bytes, release: sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unrefLayer(record.DiffID, false)
	})}
	if err := s.commitLocal(ctx, record.DiffID, parents); err != nil {
		l.Release()
		return nil, fmt.Errorf("commit layer %s: %w", record.DiffID, err)
	}
	return l, nil
}

// commitLocal renames a staged layer into place without a sync: nothing on the
// disk refers to it yet, and what first does syncs.
func (s *Store) commitLocal(ctx context.Context, d digest.Digest, parents []digest.Digest) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	staged := s.layers[d].state == layerStaged
	s.mu.Unlock()
	if !staged {
		return nil
	}
	if err := s.inherit(ctx, append(slices.Clone(parents), d)); err != nil {
		return err
	}
	s.dropPartials([]digest.Digest{d})
	if err := s.commitLayer(d); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[d].unsynced = true
	return nil
}

// syncLayers makes all layers durable that are in their place. The caller holds
// s.commits.
func (s *Store) syncLayers() error {
	if err := s.syncRoot(); err != nil {
		return fmt.Errorf("sync layers: %w", err)
	}
	s.mu.Lock()
	for _, l := range s.layers {
		l.unsynced = false
	}
	s.mu.Unlock()
	return nil
}

// HoldLayers keeps layers from going until release is called. A layer that is
// not there is errdefs.ErrNotFound.
func (s *Store) HoldLayers(layers []digest.Digest) (release func(), err error) {
	done, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	return s.holdLayers(layers)
}

func (s *Store) holdLayers(layers []digest.Digest) (release func(), err error) {
	layers = uniqueDigests(layers)
	if err := s.refAll(layers); err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { s.unrefAll(layers) }), nil
}

// Register makes an image of a config, the bytes of which are kept as they are,
// and of the layers it names, which must be in the store. names are tags to
// give it, taken from other images; without one it can be used by its ID. An
// image that is there already gets the names.
func (s *Store) Register(ctx context.Context, config []byte, names ...string) (*Image, error) {
	refs, err := parseTags(names)
	if err != nil {
		return nil, err
	}
	done, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := localImage(config)
	if err != nil {
		return nil, err
	}
	if err := s.hold(p); err != nil {
		return nil, fmt.Errorf("image %s: %w", p.record.ID, err)
	}
	s.mu.Lock()
	p.record.Origins = s.originsElsewhere(p.record.Layers)
	s.mu.Unlock()
	err = s.commit(ctx, p, refs)
	s.unpin(p, false)
	if err != nil {
		return nil, fmt.Errorf("register image %s: %w", p.record.ID, err)
	}
	return s.Resolve(p.record.ID.String())
}

// parseTags checks names that an image is to have.
func parseTags(names []string) ([]string, error) {
	var refs []string
	for _, n := range names {
		named, err := ParseReference(n)
		if err != nil {
			return nil, err
		}
		if strings.Contains(named.String(), "@") {
			return nil, fmt.Errorf("%q has a digest, which only a registry can give to an image: %w", n, errdefs.ErrInvalidArgument)
		}
		refs = append(refs, named.String())
	}
	return refs, nil
}

// localImage parses the config of an image that comes from here.
func localImage(config []byte) (*pulled, error) {
	if len(config) > maxDocument {
		return nil, fmt.Errorf("image config has %d bytes, at most %d are allowed: %w", len(config), maxDocument, errdefs.ErrInvalidArgument)
	}
	var probe ocispec.Image
	if err := json.Unmarshal(config, &probe); err != nil {
		return nil, fmt.Errorf("image config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if n := len(probe.RootFS.DiffIDs); n > maxLayers {
		return nil, fmt.Errorf("image has %d layers, at most %d can be stacked: %w", n, maxLayers, errdefs.ErrInvalidArgument)
	}
	c, err := parseConfig(config, len(probe.RootFS.DiffIDs))
	if err != nil {
		return nil, errors.Join(errdefs.ErrInvalidArgument, err)
	}
	id := digest.FromBytes(config)
	p := &pulled{config: c}
	p.record.ID, p.record.PulledAt = id, time.Now().UTC()
	p.add(ocispec.Descriptor{Digest: id, Size: int64(len(config))}, config)
	for _, d := range uniqueDigests(c.RootFS.DiffIDs) {
		p.layers = append(p.layers, layerSource{diffID: d})
	}
	p.addLayers()
	return p, nil
}

// hold is pin of an image all layers of which must be there.
func (s *Store) hold(p *pulled) error {
	release, err := s.holdLayers(p.record.Layers)
	if err != nil {
		return err
	}
	defer release()
	s.pin(p)
	return nil
}
