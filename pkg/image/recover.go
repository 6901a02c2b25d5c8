package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// recover builds the state in memory from what is on disk. Order: what may be
// referred to, what refers to it, and then what nobody refers to goes.
func (s *Store) recover(ctx context.Context) error {
	if err := s.clearStaging(); err != nil {
		return err
	}
	if err := s.recoverLayers(ctx); err != nil {
		return err
	}
	if err := s.recoverImages(ctx); err != nil {
		return err
	}
	if err := s.recoverRootfses(ctx); err != nil {
		return err
	}
	if err := errors.Join(s.recoverHolds(ctx), s.clearViews()); err != nil {
		return err
	}
	if err := s.collectUnreferenced(); err != nil {
		return err
	}
	s.updateView()
	return s.recoverPartials()
}

// clearStaging moves half-made layers to the trash: deleting them may take
// long, and nobody has to wait for it.
func (s *Store) clearStaging() error {
	entries, err := os.ReadDir(s.path(dirStaging))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.toTrash(s.path(dirStaging, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// recoverLayers enters all whole layers, without a reference yet.
func (s *Store) recoverLayers(ctx context.Context) error {
	entries, err := os.ReadDir(s.path(dirLayers))
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := s.path(dirLayers, e.Name())
		record, err := loadLayer(dir)
		if err == nil && record.DiffID.Encoded() != e.Name() {
			err = fmt.Errorf("%w: layer %s lies at %s", linux.ErrBroken, record.DiffID, e.Name())
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Layer is damaged, images with it will have to be pulled again", "layer", e.Name())
			if err := s.toTrash(dir); err != nil {
				return err
			}
			continue
		}
		l := &layerEntry{state: layerCommitted}
		l.describe(record)
		s.layers[record.DiffID] = l
	}
	return nil
}

func loadLayer(dir string) (layerUsage, error) {
	u, _, err := linux.LoadRecord[layerUsage](filepath.Join(dir, layerRecord))
	if err != nil {
		return layerUsage{}, err
	}
	if err := validateDigest(u.DiffID); err != nil {
		return layerUsage{}, err
	}
	info, err := os.Lstat(filepath.Join(dir, layerDiff))
	if err != nil {
		return layerUsage{}, err
	}
	if !info.IsDir() {
		return layerUsage{}, fmt.Errorf("%w: %s is no directory", linux.ErrBroken, layerDiff)
	}
	return u, nil
}

// recoverImages enters all images that are whole and moves the records of the
// others aside, so that they can be pulled again.
func (s *Store) recoverImages(ctx context.Context) error {
	entries, err := os.ReadDir(s.path(dirImages))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(dirImages, e.Name())
		if linux.IsTemporary(e.Name()) {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		st, err := s.loadImage(path)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Image is damaged and will have to be pulled again", "record", e.Name())
			aside := fmt.Sprintf("%s.%d", e.Name(), time.Now().UnixNano())
			if err := os.Rename(path, s.path(dirBroken, aside)); err != nil {
				return err
			}
			continue
		}
		s.images[st.record.ID] = st
		s.refImage(st)
	}
	s.settleNames()
	return nil
}

// loadImage reads a record and verifies all that it needs.
func (s *Store) loadImage(path string) (*stored, error) {
	record, _, err := linux.LoadRecord[imageRecord](path)
	if err != nil {
		return nil, err
	}
	if err := validateDigest(record.ID); err != nil {
		return nil, err
	}
	if want := record.ID.Encoded() + ".json"; want != filepath.Base(path) {
		return nil, fmt.Errorf("%w: record of image %s is in the wrong file", linux.ErrBroken, record.ID)
	}
	var document []byte // the config of an image, the manifest of an artifact
	for _, b := range record.Blobs {
		content, err := s.loadBlob(b)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", record.ID, err)
		}
		if b.Digest == record.ID {
			document = content
		}
	}
	for _, d := range record.Layers {
		if s.layers[d] == nil {
			return nil, fmt.Errorf("image %s: layer %s is missing", record.ID, d)
		}
	}
	record.Compressed = slices.DeleteFunc(record.Compressed, func(b blobRef) bool { return !s.blobIsThere(b) })
	st := &stored{record: record}
	if record.Artifact {
		return st, st.loadArtifact(document)
	}
	if err := json.Unmarshal(document, &st.config); err != nil {
		return nil, fmt.Errorf("image %s: config: %w", record.ID, err)
	}
	return st, checkLayers(record, st.config.RootFS.DiffIDs)
}

// loadArtifact reads what an artifact holds out of its manifest.
func (st *stored) loadArtifact(manifest []byte) error {
	doc, err := parseDocument("", manifest)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", st.record.ID, err)
	}
	if doc.artifact == nil {
		return fmt.Errorf("%w: %s is no artifact", linux.ErrBroken, st.record.ID)
	}
	st.artifact = doc.artifact
	var layers []digest.Digest
	for _, l := range st.artifact.layers() {
		layers = append(layers, l.diffID)
	}
	return checkLayers(st.record, layers)
}

// checkLayers holds the layers of a record against those that the config or
// manifest names.
func checkLayers(record imageRecord, want []digest.Digest) error {
	have := map[digest.Digest]bool{}
	for _, d := range record.Layers {
		have[d] = true
	}
	for _, d := range want {
		if !have[d] {
			return fmt.Errorf("%w: image %s: layer %s is not in its record", linux.ErrBroken, record.ID, d)
		}
	}
	return nil
}

// blobIsThere looks for the compressed bytes of a layer. They are too many to
// verify: whoever takes them does.
func (s *Store) blobIsThere(b blobRef) bool {
	if validateDigest(b.Digest) != nil {
		return false
	}
	info, err := os.Lstat(s.blobPath(b.Digest))
	return err == nil && info.Mode().IsRegular() && info.Size() == b.Size
}

func (s *Store) loadBlob(b blobRef) ([]byte, error) {
	if err := validateDigest(b.Digest); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(s.blobPath(b.Digest))
	if err != nil {
		return nil, err
	}
	if got := b.Digest.Algorithm().FromBytes(content); got != b.Digest {
		return nil, malformed("blob %s has digest %s", b.Digest, got)
	}
	return content, nil
}

// settleNames gives a name that two images have to the later one. The loser's
// record is corrected when it is next written; until then this happens again.
func (s *Store) settleNames() {
	owner := map[string]name{}
	for _, st := range s.images {
		for _, n := range st.record.Names {
			s.sequence = max(s.sequence, n.Sequence)
			if n.Sequence >= owner[n.Ref].Sequence {
				owner[n.Ref] = n
			}
		}
	}
	for _, st := range s.images {
		var kept []name
		for _, n := range st.record.Names {
			if owner[n.Ref] == n {
				kept = append(kept, n)
			}
		}
		st.record.Names = kept
	}
}

// collectUnreferenced drops what recovery found no use for.
func (s *Store) collectUnreferenced() error {
	for d, l := range s.layers {
		if l.refs == 0 {
			delete(s.layers, d)
			if err := s.toTrash(s.layerDir(d)); err != nil {
				return err
			}
		}
	}
	for _, b := range s.blobs {
		b.stored = true // by an image that was just verified
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		dir := s.path(dirBlobs, algorithm.String())
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if s.blobs[digest.NewDigestFromEncoded(algorithm, e.Name())] != nil {
				continue
			}
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// recoverPartials counts what is left of unfinished downloads.
func (s *Store) recoverPartials() error {
	entries, err := os.ReadDir(s.path(dirPartial))
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.partial.Add(info.Size())
	}
	return s.expirePartials(time.Now().Add(-partialLife))
}
