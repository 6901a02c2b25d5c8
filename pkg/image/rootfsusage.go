package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

const (
	// usageLife is how long the size of a writable layer may be told without
	// looking again. Kubelet asks every ten seconds and more often.
	usageLife = 10 * time.Second
	// usageShare bounds what measuring may cost: one that took a second is
	// good for this many.
	usageShare = 20
)

// measured is the size of a writable layer, as last seen. Its lock is held
// while it is measured, so that whoever asks meanwhile waits for the result
// and does not walk the same files.
type measured struct {
	mu    sync.Mutex
	value layer.Usage
	until time.Time
}

// get returns the last measurement while it is good, or a new one.
func (m *measured) get(now func() time.Time, measure func() (layer.Usage, error)) (layer.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	start := now()
	if start.Before(m.until) {
		return m.value, nil
	}
	value, err := measure()
	if err != nil {
		return layer.Usage{}, err
	}
	end := now()
	m.value, m.until = value, end.Add(max(usageLife, usageShare*end.Sub(start)))
	return value, nil
}

// RootfsUsage says what the writable layer of a container takes up. The answer
// may be ten seconds old, or older where measuring takes more than half a
// second: it is a walk over all files. Concurrent callers share one, and Close
// ends it.
func (s *Store) RootfsUsage(containerID string) (layer.Usage, error) {
	done, err := s.begin()
	if err != nil {
		return layer.Usage{}, err
	}
	defer done()
	s.mu.Lock()
	e := s.rootfses[containerID]
	s.mu.Unlock()
	if e == nil {
		return layer.Usage{}, fmt.Errorf("rootfs %s: %w", containerID, errdefs.ErrNotFound)
	}
	return e.usage.get(time.Now, func() (layer.Usage, error) {
		return measureTree(s.ctx, filepath.Join(s.rootfsDir(containerID), rootfsUpper))
	})
}

// measureTree walks a directory. Paths in it are the container's to change at
// any moment, so the walk cannot leave it.
func measureTree(ctx context.Context, dir string) (layer.Usage, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return layer.Usage{}, err
	}
	var u layer.Usage
	seen := map[uint64]bool{} // inodes with several links
	err = fs.WalkDir(root.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return skipVanished(err)
		}
		info, err := e.Info()
		if err != nil {
			return skipVanished(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[st.Ino] {
			return nil
		}
		if st.Nlink > 1 && !info.IsDir() {
			seen[st.Ino] = true
		}
		u.Bytes += st.Blocks * 512
		u.Inodes++
		return nil
	})
	return u, errors.Join(err, root.Close())
}

// skipVanished lets a walk go on where the container was quicker.
func skipVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil
	}
	return err
}
