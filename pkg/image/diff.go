package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

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
