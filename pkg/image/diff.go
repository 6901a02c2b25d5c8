package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

// ExportRootfs writes what a container has changed in its root file system, in
// the form of an uncompressed image layer. A container that runs goes on
// changing it meanwhile.
func (s *Store) ExportRootfs(ctx context.Context, containerID string, w io.Writer) error {
	upper, done, err := s.useUpper(containerID)
	if err != nil {
		return err
	}
	defer done()
	if err := layer.Export(ctx, upper, w); err != nil {
		return fmt.Errorf("export changes of rootfs %s: %w", containerID, err)
	}
	return nil
}

// CommitRootfs makes a layer of what was changed in a rootfs. The caller must
// Release it.
func (s *Store) CommitRootfs(ctx context.Context, id string, o layer.ExportOptions) (*Layer, error) {
	upper, done, err := s.useUpper(id)
	if err != nil {
		return nil, err
	}
	defer done()
	parents, err := s.RootfsLayers(id)
	if err != nil {
		return nil, err
	}
	release, err := s.holdLayers(parents)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := s.addPiped(ctx, parents, func(ctx context.Context, w io.Writer) error {
		return layer.ExportWith(ctx, upper, w, o)
	})
	if err != nil {
		return nil, fmt.Errorf("commit rootfs %s: %w", id, err)
	}
	return l, nil
}

// ExportMerged writes the whole tree of a rootfs, as its container sees it, as a
// tar. Nothing need be mounted.
func (s *Store) ExportMerged(ctx context.Context, id string, w io.Writer, o layer.ExportOptions) error {
	upper, lower, done, err := s.useStack(id)
	if err != nil {
		return err
	}
	defer done()
	if err := layer.ExportMerged(ctx, append([]string{upper}, lower...), w, o); err != nil {
		return fmt.Errorf("export rootfs %s: %w", id, err)
	}
	return nil
}

// Changes lists what a container has changed in its rootfs. skip leaves out what
// is new and no doing of the container.
func (s *Store) Changes(ctx context.Context, id string, skip func(name string, info *unix.Stat_t) bool) ([]layer.Change, error) {
	upper, lower, done, err := s.useStack(id)
	if err != nil {
		return nil, err
	}
	defer done()
	changes, err := layer.Changes(ctx, upper, lower, skip)
	if err != nil {
		return nil, fmt.Errorf("changes of rootfs %s: %w", id, err)
	}
	return changes, nil
}

// RootfsImage is the ID of the image that a rootfs was made from.
func (s *Store) RootfsImage(id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.rootfses[id]
	if e == nil || e.broken != nil {
		return "", fmt.Errorf("rootfs %s: %w", id, errdefs.ErrNotFound)
	}
	return e.record.Image.String(), nil
}

// RootfsLayers are the diff IDs of the layers that a rootfs stands on, lowest
// first.
func (s *Store) RootfsLayers(id string) ([]digest.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.rootfses[id]
	if e == nil || e.broken != nil {
		return nil, fmt.Errorf("rootfs %s: %w", id, errdefs.ErrNotFound)
	}
	return slices.Clone(e.record.Layers), nil
}

// useStack finds the directories of a rootfs. The caller must call done.
func (s *Store) useStack(id string) (upper string, lower []string, done func(), err error) {
	if upper, done, err = s.useUpper(id); err != nil {
		return "", nil, nil, err
	}
	if lower, err = s.lowerDirs(id); err != nil {
		done()
		return "", nil, nil, err
	}
	return upper, lower, done, nil
}

// FillRootfs replaces a container's writable layer by the uncompressed image
// layer in r. The rootfs must not be mounted: nobody would see it, or worse.
// After an error the layer is useless.
func (s *Store) FillRootfs(ctx context.Context, containerID string, r io.Reader) error {
	upper, done, err := s.useUpper(containerID)
	if err != nil {
		return err
	}
	defer done()
	// What makeRootfs made of it comes again with the root entry of the layer.
	if err := errors.Join(os.RemoveAll(upper), os.Mkdir(upper, 0o755)); err != nil {
		return fmt.Errorf("fill rootfs %s: %w", containerID, err)
	}
	result, err := layer.Apply(ctx, r, upper, s.config.Limits)
	if err != nil {
		return fmt.Errorf("fill rootfs %s: %w", containerID, err)
	}
	if result.OpaqueRoot {
		return fmt.Errorf("fill rootfs %s: the layer hides the whole image: %w", containerID, errdefs.ErrInvalidArgument)
	}
	s.usages.Remove(containerID)
	s.usages.Add(containerID, upper, nil)
	return nil
}

// useUpper finds a container's writable layer. The caller must call done.
func (s *Store) useUpper(containerID string) (upper string, done func(), err error) {
	if !validRootfsID(containerID) {
		return "", nil, fmt.Errorf("rootfs id %.80q: %w", containerID, errdefs.ErrInvalidArgument)
	}
	if done, err = s.begin(); err != nil {
		return "", nil, err
	}
	s.mu.Lock()
	e := s.rootfses[containerID]
	s.mu.Unlock()
	if e == nil {
		done()
		return "", nil, fmt.Errorf("rootfs %s: %w", containerID, errdefs.ErrNotFound)
	}
	return filepath.Join(s.rootfsDir(containerID), rootfsUpper), done, nil
}

// ReadLayer lets use look into the only layer of an image, given by ID, which
// stays for that long. Nothing in it is to be trusted. An image of more layers
// or none is errdefs.ErrInvalidArgument.
func (s *Store) ReadLayer(imageID string, use func(dir string) error) error {
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	s.mu.Lock()
	img, err := s.Resolve(imageID)
	if err == nil && (img.Artifact != nil || len(img.Layers) != 1 || s.layers[img.Layers[0]] == nil) {
		err = fmt.Errorf("image %s has not just one layer: %w", imageID, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	d := img.Layers[0]
	s.refLayer(d)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unrefLayer(d, false)
	}()
	return use(filepath.Join(s.layerDir(d), layerDiff))
}
