package image

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image/layer"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// NewLayer is what TakeUpper made of a writable layer.
type NewLayer struct {
	DiffID digest.Digest
	// Bytes and Inodes are what it takes on disk.
	Bytes, Inodes int64
	// Empty: nothing was changed, and there is no layer.
	Empty bool
}

func newStackID() string { return rand.Text() }

// TakeUpper makes an image layer of what was written into a rootfs, without
// copying it: its writable layer is an empty one afterwards, whose mount shows
// nobody anything sensible. Nobody may write to it meanwhile. The layer, and
// those in below, are held by id as by Hold. Times after clamp, unless that is
// zero, become clamp.
func (s *Store) TakeUpper(ctx context.Context, rootfsID, hold string, below []digest.Digest, clamp time.Time) (NewLayer, error) {
	upper, done, err := s.useUpper(rootfsID)
	if err != nil {
		return NewLayer{}, err
	}
	defer done()
	s.mu.Lock()
	lower := s.stackDirs(s.rootfses[rootfsID].record.Layers)
	s.mu.Unlock()
	t := layer.Tidy{Lower: lower, Clamp: clamp}
	usage, err := t.Run(ctx, upper)
	if err != nil {
		return NewLayer{}, fmt.Errorf("take changes of rootfs %s: %w", rootfsID, err)
	}
	if usage.Inodes <= 1 { // the root
		return NewLayer{Empty: true}, s.Hold(ctx, hold, below)
	}
	tar := countedHash{Hash: sha256.New()}
	if err := layer.Export(ctx, upper, &tar); err != nil {
		return NewLayer{}, fmt.Errorf("take changes of rootfs %s: %w", rootfsID, err)
	}
	n := NewLayer{DiffID: digest.NewDigest(digest.SHA256, tar.Hash), Bytes: usage.Bytes, Inodes: usage.Inodes}
	if err := s.adopt(n, upper, tar.n); err != nil {
		return NewLayer{}, fmt.Errorf("adopt layer %s: %w", n.DiffID, err)
	}
	defer s.unrefAll([]digest.Digest{n.DiffID})
	return n, s.Hold(ctx, hold, append(below[:len(below):len(below)], n.DiffID))
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
func (s *Store) adopt(n NewLayer, dir string, tarSize int64) error {
	staged, err := os.MkdirTemp(s.path(dirStaging), "")
	if err != nil {
		return err
	}
	record := newLayerUsage(n.DiffID, applied{Result: layer.Result{Usage: layer.Usage{Bytes: n.Bytes, Inodes: n.Inodes}}, tarSize: tarSize})
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
	s.refLayer(n.DiffID)
	l := s.layers[n.DiffID]
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
	if err := s.commitLayer(n.DiffID); err != nil {
		return errors.Join(err, s.forget(n.DiffID))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[n.DiffID].unsynced = true
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

func (s *Store) forget(d digest.Digest) error {
	s.unrefAll([]digest.Digest{d})
	return nil
}
