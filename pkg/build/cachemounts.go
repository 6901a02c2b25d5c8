package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// dirMounts has the directories of cache mounts, below the root:
//
//	mounts/<hash of id>-<n>/data
const dirMounts = "mounts"

// cacheMounts are directories that RUN --mount=type=cache finds again. n is 0
// but for private ones, of which each user at a time has its own.
type cacheMounts struct {
	dir string

	mu    sync.Mutex
	users map[string]int
	// locked tells who waits for a locked one that it is free.
	freed chan struct{}
}

// cacheMount is one in use.
type cacheMount struct {
	path    string
	release func() error
}

// use finds the directory of an id, or makes it and fills it. shared ones are
// used by any number at a time, locked ones by one, and others wait.
func (m *cacheMounts) use(ctx context.Context, id string, sharing pb.CacheSharingOpt, fill func(dir string) error) (*cacheMount, error) {
	sum := sha256.Sum256([]byte(id))
	name := hex.EncodeToString(sum[:16])
	n := 0
	for {
		m.mu.Lock()
		if m.users == nil {
			m.users, m.freed = map[string]int{}, make(chan struct{})
		}
		n = 0
		if sharing == pb.CacheSharingOpt_PRIVATE {
			for m.users[slot(name, n)] > 0 {
				n++
			}
		}
		if sharing != pb.CacheSharingOpt_LOCKED || m.users[slot(name, n)] == 0 {
			m.users[slot(name, n)]++
			m.mu.Unlock()
			break
		}
		freed := m.freed
		m.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	c := &cacheMount{path: filepath.Join(m.dir, slot(name, n), "data")}
	c.release = sync.OnceValue(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.users[slot(name, n)]--; m.users[slot(name, n)] == 0 {
			delete(m.users, slot(name, n))
		}
		close(m.freed)
		m.freed = make(chan struct{})
		now := time.Now()
		return os.Chtimes(filepath.Join(m.dir, slot(name, n)), now, now)
	})
	if err := m.prepare(c.path, fill); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

func slot(name string, n int) string { return fmt.Sprintf("%s-%d", name, n) }

// prepare makes the directory where it is missing. It appears whole.
func (m *cacheMounts) prepare(path string, fill func(dir string) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	parent := filepath.Dir(path)
	if err := errors.Join(linux.RemoveAll(parent), os.Mkdir(parent, 0o700)); err != nil {
		return err
	}
	fresh := filepath.Join(parent, "new")
	if err := errors.Join(os.Mkdir(fresh, 0o755), os.Chmod(fresh, 0o755), fill(fresh)); err != nil {
		return fmt.Errorf("fill cache mount: %w", err)
	}
	return os.Rename(fresh, path)
}

// prune removes what is not in use and was not since a time.
func (m *cacheMounts) prune(before time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return 0, err
	}
	var bytes int64
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || m.users[e.Name()] > 0 || info.ModTime().After(before) {
			continue
		}
		path := filepath.Join(m.dir, e.Name())
		bytes += diskUsage(path)
		errs = append(errs, linux.RemoveAll(path))
	}
	return bytes, errors.Join(errs...)
}

// diskUsage is what a tree takes, as far as it can be read.
func diskUsage(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes
}
