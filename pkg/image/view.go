package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// View is a stack of layers as one tree, which nobody can write to.
type View struct {
	// Path is the directory it is mounted on. What is in it comes from strangers:
	// open nothing below it by a path that may lead through symbolic links.
	Path string

	close func() error
}

// Close unmounts the view. It may be called again.
func (v *View) Close() error { return v.close() }

// View mounts layers, lowest first, for reading. The caller must Close it.
func (s *Store) View(ctx context.Context, layers []digest.Digest) (*View, error) {
	done, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	release, err := s.holdLayers(layers)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	lower := append(s.stackDirs(layers), s.path(dirFiller)) // the kernel wants two
	s.mu.Unlock()
	dir := s.path(dirViews, rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		release()
		return nil, err
	}
	m := overlay{lower: lower, target: dir, legacy: s.legacyMount, scratch: dir + ".links"}
	if err := m.mount(); err != nil {
		release()
		return nil, errors.Join(fmt.Errorf("mount layers: %w", err), os.RemoveAll(m.scratch), os.Remove(dir))
	}
	return &View{Path: dir, close: sync.OnceValue(func() error {
		defer release()
		if err := linux.Unmount(dir); err != nil {
			return fmt.Errorf("unmount view: %w", err)
		}
		return os.Remove(dir)
	})}, nil
}

// clearViews takes away views of a daemon that crashed.
func (s *Store) clearViews() error {
	dir := s.path(dirViews)
	if err := linux.UnmountAll(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := linux.RemoveAll(s.path(dirViews, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
