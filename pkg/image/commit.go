package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// commit makes a pulled image durable and then visible:
//
//  1. blobs are written, layers lie in staging, nothing refers to them, and
//     directories that they do not list get what the layers below say;
//  2. compressed bytes go, which nobody will read again and the kernel need
//     not write to disk, and one syncfs for all the rest;
//  3. layers are renamed into place, and the directory is synced;
//  4. the record of the image is written and synced.
//
// A crash before 4 leaves content without references, which the next Open
// collects.
func (s *Store) commit(ctx context.Context, p *pulled, refs []string) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	staged, missing, unsynced := s.uncommitted(p)
	if len(staged) > 0 {
		if err := s.inherit(ctx, p.config.RootFS.DiffIDs); err != nil {
			return err
		}
	}
	if s.config.KeepCompressed {
		defer s.keepPartials(p)()
	}
	if len(staged) > 0 {
		s.dropPartials(staged)
	}
	if len(missing) > 0 || len(staged) > 0 || unsynced {
		for _, d := range missing {
			if err := s.storeBlob(d.ref.Digest, d.content); err != nil {
				return err
			}
		}
		if err := s.syncLayers(); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, d := range staged {
		if err := s.commitLayer(d); err != nil {
			return fmt.Errorf("commit layer %s: %w", d, err)
		}
	}
	if len(staged) > 0 {
		if err := linux.SyncDir(s.path(dirLayers)); err != nil {
			return err
		}
	}
	return s.publish(&stored{record: p.record, config: p.config, artifact: p.artifact}, refs)
}

func (s *Store) uncommitted(p *pulled) (staged []digest.Digest, missing []rawDocument, unsynced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range p.layers {
		e := s.layers[l.diffID]
		if e.state == layerStaged {
			staged = append(staged, l.diffID)
		}
		unsynced = unsynced || e.unsynced
	}
	for _, d := range p.documents {
		if !s.blobs[d.ref.Digest].stored {
			missing = append(missing, d)
		}
	}
	return staged, missing, unsynced
}

// dropPartials deletes the compressed bytes of staged layers. The caller holds
// s.commits and references to the layers.
func (s *Store) dropPartials(staged []digest.Digest) {
	for _, path := range s.takePartials(staged) {
		s.removePartial(path)
	}
}

// keepPartials makes blobs of the compressed bytes of staged layers, and names
// those that are there in the image's record. The function it returns lets go of
// those that no record came to name. The caller holds s.commits and references
// to the layers.
func (s *Store) keepPartials(p *pulled) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []digest.Digest
	for _, l := range p.layers {
		e, ref := s.layers[l.diffID], blobRef{Digest: l.blob.Digest, Size: l.blob.Size}
		if l.file {
			continue // is a file already
		}
		if b := s.blobs[ref.Digest]; b != nil && b.stored {
			s.refBlob(ref.Digest, ref.Size)
			held = append(held, ref.Digest)
			p.record.Compressed = append(p.record.Compressed, ref)
			continue
		}
		if e.state != layerStaged || e.partial != s.partialPath(l.key()) {
			continue // there already, without
		}
		if err := os.Rename(e.partial, s.blobPath(ref.Digest)); err != nil {
			klog.FromContext(s.ctx).Error(err, "Keep a compressed layer", "layer", ref.Digest)
			continue
		}
		e.partial = ""
		s.partial.Add(-ref.Size)
		s.refBlob(ref.Digest, ref.Size)
		s.blobs[ref.Digest].stored = true
		held = append(held, ref.Digest)
		p.record.Compressed = append(p.record.Compressed, ref)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range held {
			s.unrefBlob(d)
		}
	}
}

// takePartials makes the layers forget their compressed bytes: deleting large
// files under s.mu would keep containers waiting.
func (s *Store) takePartials(staged []digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for _, d := range staged {
		if l := s.layers[d]; l.partial != "" {
			paths = append(paths, l.partial)
			l.partial = ""
		}
	}
	return paths
}

// commitLayer renames a staged layer into place. The caller holds s.commits
// and a reference to the layer.
func (s *Store) commitLayer(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.layers[d]
	target := s.layerDir(d)
	err := os.Rename(l.dir, target)
	if errors.Is(err, os.ErrExist) {
		// What could not be discarded when its last reference went.
		if err = s.toTrash(target); err == nil {
			err = os.Rename(l.dir, target)
		}
	}
	if err != nil {
		return err
	}
	l.state, l.dir, l.implied = layerCommitted, "", nil
	return nil
}
