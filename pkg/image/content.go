package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/image/layer"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// layerEntry is a layer that somebody refers to: an image, a rootfs or a pull.
//
//	absent --staged--> staged --committed--> committed
//
// It leaves the map with its last reference, and its files leave their place
// in the same moment.
type layerEntry struct {
	refs    int
	state   layerState
	dir     string // while staged
	partial string // file of its compressed bytes, while staged; "" once gone
	usage   layer.Usage
	// implied are directories that the layer does not list, while staged;
	// afterwards they are in its record.
	implied     []string
	hasImplied  bool
	rootImplied bool
	opaqueRoot  bool // hides all layers below
	// tarSize is that of the tar that it can be made into again, 0 where it
	// cannot.
	tarSize int64
	// unsynced: it is in its place, but may not be on the disk yet.
	unsynced bool
}

type layerState int

const (
	layerAbsent layerState = iota
	layerStaged
	layerCommitted
)

// blobEntry is a manifest or config that an image or a pull refers to.
type blobEntry struct {
	refs   int
	size   int64
	stored bool
}

// layerUsage is the record in a layer's directory.
type layerUsage struct {
	DiffID digest.Digest `json:"diffID"`
	Bytes  int64         `json:"bytes"`
	Inodes int64         `json:"inodes"`
	// Implied and OpaqueRoot: see layer.Result.
	Implied    []escapedPath `json:"implied,omitempty"`
	OpaqueRoot bool          `json:"opaqueRoot,omitempty"`
	// TarSize is the size of the layer's tar where the layer holds what is
	// needed to make it again.
	TarSize int64 `json:"tarSize,omitempty"`
}

const (
	layerDiff   = "diff"
	layerRecord = "usage.json"
	// partialLife is how long an unfinished download may lie about.
	partialLife = 24 * time.Hour
)

func (s *Store) layerDir(d digest.Digest) string { return s.path(dirLayers, d.Encoded()) }

func (s *Store) blobPath(d digest.Digest) string {
	return s.path(dirBlobs, d.Algorithm().String(), d.Encoded())
}

// partialPath is where compressed bytes of a layer are kept until it is
// committed. The diff ID is part of it: two images that disagree on what a
// blob unpacks to must not write one file.
func (s *Store) partialPath(k layerKey) string {
	return s.path(dirPartial, k.blob.Algorithm().String()+"-"+k.blob.Encoded()+"-"+k.diffID.Encoded()[:16])
}

// refLayer adds a reference. The caller holds s.mu.
func (s *Store) refLayer(d digest.Digest) {
	l := s.layers[d]
	if l == nil {
		l = &layerEntry{}
		s.layers[d] = l
	}
	l.refs++
}

// unrefLayer drops a reference and, with the last one, the layer. keepPartial
// leaves what was downloaded for another try. The caller holds s.mu.
func (s *Store) unrefLayer(d digest.Digest, keepPartial bool) {
	l := s.layers[d]
	if l.refs--; l.refs > 0 {
		return
	}
	delete(s.layers, d)
	switch l.state {
	case layerAbsent: // nothing to remove
	case layerStaged:
		s.discard(l.dir)
		if !keepPartial && l.partial != "" {
			s.removePartial(l.partial)
		}
	case layerCommitted:
		s.discard(s.layerDir(d))
	}
}

// refBlob adds a reference. The caller holds s.mu.
func (s *Store) refBlob(d digest.Digest, size int64) {
	b := s.blobs[d]
	if b == nil {
		b = &blobEntry{size: size}
		s.blobs[d] = b
	}
	b.refs++
}

// unrefBlob drops a reference and, with the last one, the file. What cannot be
// removed now is found again by the next Open. The caller holds s.mu.
func (s *Store) unrefBlob(d digest.Digest) {
	b := s.blobs[d]
	if b.refs--; b.refs > 0 {
		return
	}
	delete(s.blobs, d)
	if err := os.Remove(s.blobPath(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(s.ctx).Error(err, "Remove unreferenced blob")
	}
}

// removePartial deletes compressed bytes. Nobody may be writing to them.
func (s *Store) removePartial(path string) {
	info, err := os.Lstat(path)
	if err == nil {
		err = os.Remove(path)
	}
	switch {
	case err == nil:
		s.partial.Add(-info.Size())
	case !errors.Is(err, fs.ErrNotExist):
		klog.FromContext(s.ctx).Error(err, "Remove partial download")
	}
}

// discard takes a directory out of sight, and leaves its deletion to the
// collector. What cannot be moved stays, and is in nobody's way: a commit
// moves it aside again, and the next Open finds it unreferenced.
func (s *Store) discard(dir string) {
	err := s.toTrash(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(s.ctx).Error(err, "Move to trash", "path", dir)
	}
	s.wakeCollector()
}

func (s *Store) toTrash(path string) error {
	// One rename and nothing before it: the collector deletes whatever it finds.
	return os.Rename(path, filepath.Join(s.path(dirTrash), rand.Text()+"-"+filepath.Base(path)))
}

func (s *Store) wakeCollector() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// collect deletes what is in the trash whenever it is told to look. It ends
// with ctx, between two trees.
func (s *Store) collect(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		if err := guarded(ctx, "the collector", func() error { return s.emptyTrash(ctx) })(); err != nil {
			klog.FromContext(ctx).Error(err, "Delete discarded layers")
		}
		if err := guarded(ctx, "the collector", func() error { return s.expirePartials(time.Now().Add(-partialLife)) })(); err != nil {
			klog.FromContext(ctx).Error(err, "Delete old partial downloads")
		}
	}
}

// emptyTrash deletes what is in the trash when it is called, beginning once nobody
// else does that. It ends with ctx or the store, between two trees.
func (s *Store) emptyTrash(ctx context.Context) error {
	s.emptying.Lock()
	defer s.emptying.Unlock()
	entries, err := os.ReadDir(s.path(dirTrash))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil || s.ctx.Err() != nil {
			break
		}
		errs = append(errs, linux.RemoveAll(s.path(dirTrash, e.Name())))
	}
	return errors.Join(errs...)
}

// expirePartials deletes downloads that nobody has gone on with since the
// deadline. One in progress has a younger file.
func (s *Store) expirePartials(deadline time.Time) error {
	entries, err := os.ReadDir(s.path(dirPartial))
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.ModTime().Before(deadline) {
			s.removePartial(s.path(dirPartial, e.Name()))
		}
	}
	return nil
}

// syncRoot writes back everything the file system of the store holds: one call
// for all files of all layers of an image.
func (s *Store) syncRoot() error {
	d, err := os.Open(s.config.Root)
	if err != nil {
		return err
	}
	return errors.Join(syncfs(d), d.Close())
}

// storeBlob writes a blob without waiting for the disk; a syncRoot has to
// follow. The caller holds a reference and s.commits.
func (s *Store) storeBlob(d digest.Digest, content []byte) error {
	if err := linux.WriteFileAtomic(s.blobPath(d), content, 0o600, linux.SurviveProcess); err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d].stored = true
	return nil
}
