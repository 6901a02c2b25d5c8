package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image/layer"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// TakeUpper makes an image layer of what was written into a rootfs, without
// copying it: its writable layer is an empty one afterwards, whose mount shows
// nobody anything sensible. Nobody may write to it meanwhile. Times after clamp,
// unless that is zero, become clamp. The caller must Release the layer, which is
// nil where nothing was changed.
func (s *Store) TakeUpper(ctx context.Context, rootfsID string, clamp time.Time) (*Layer, error) {
	upper, done, err := s.useUpper(rootfsID)
	if err != nil {
		return nil, err
	}
	defer done()
	lower, err := s.lowerDirs(rootfsID)
	if err != nil {
		return nil, err
	}
	t := layer.Tidy{Lower: lower, Clamp: clamp}
	usage, err := t.Run(ctx, upper)
	if err != nil {
		return nil, fmt.Errorf("take changes of rootfs %s: %w", rootfsID, err)
	}
	if usage.Inodes <= 1 { // the root
		return nil, nil //nolint:nilnil // there is none
	}
	tar := countedHash{Hash: sha256.New()}
	if err := layer.Export(ctx, upper, &tar); err != nil {
		return nil, fmt.Errorf("take changes of rootfs %s: %w", rootfsID, err)
	}
	diffID := digest.NewDigest(digest.SHA256, tar.Hash)
	record := newLayerUsage(diffID, applied{Result: layer.Result{Usage: usage}, tarSize: tar.n})
	if err := s.adopt(record, upper); err != nil {
		return nil, fmt.Errorf("adopt layer %s: %w", diffID, err)
	}
	return &Layer{DiffID: diffID, Size: usage.Bytes, release: sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unrefLayer(diffID, false)
	})}, nil
}

// Upper is the directory of a rootfs's writable layer, for a caller who has
// reason to write to it without a mount.
func (s *Store) Upper(rootfsID string) (string, error) {
	upper, done, err := s.useUpper(rootfsID)
	if err != nil {
		return "", err
	}
	done()
	return upper, nil
}

// adopt moves a directory in as a layer, and takes a reference to it.
func (s *Store) adopt(record layerUsage, dir string) error {
	staged, err := os.MkdirTemp(s.path(dirStaging), "")
	if err != nil {
		return err
	}
	err = linux.SaveRecord(filepath.Join(staged, layerRecord), record, linux.SurviveProcess)
	if err == nil {
		err = os.Rename(dir, filepath.Join(staged, layerDiff))
	}
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		s.discard(staged)
		return err
	}
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	s.refLayer(record.DiffID)
	l := s.layers[record.DiffID]
	state := l.state
	if state == layerAbsent {
		l.state, l.dir = layerStaged, staged
		l.describe(record)
	}
	s.mu.Unlock()
	if state != layerAbsent {
		s.discard(staged)
	}
	if state == layerCommitted {
		return nil
	}
	err = s.commitLayer(record.DiffID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unrefLayer(record.DiffID, false)
		return err
	}
	l.unsynced = true
	return nil
}

// countedHash hashes and counts.
type countedHash struct {
	hash.Hash
	n int64
}

func (c *countedHash) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}
