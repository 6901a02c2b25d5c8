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
	slots map[string]*mountSlot
	// freed tells who waits for a locked one that it is free.
	freed chan struct{}
}

// mountSlot is what is known of one directory, there or not.
type mountSlot struct {
	users int
	// uses counts all users so far; size, if measured is not 0, is what the
	// directory took on disk after so many of them.
	uses, measured int
	size           int64
	// filling makes its users wait for the one that fills it.
	filling sync.Mutex
}

// openCacheMounts takes away what a daemon that died was about to delete.
func openCacheMounts(dir string) (*cacheMounts, error) {
	return &cacheMounts{dir: dir, slots: map[string]*mountSlot{}, freed: make(chan struct{})}, linux.EmptyTrash(dir)
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
	name, s, err := m.take(ctx, hex.EncodeToString(sum[:16]), sharing)
	if err != nil {
		return nil, err
	}
	c := &cacheMount{path: filepath.Join(m.dir, name, "data")}
	c.release = sync.OnceValue(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		s.users--
		close(m.freed)
		m.freed = make(chan struct{})
		now := time.Now()
		return os.Chtimes(filepath.Join(m.dir, name), now, now)
	})
	if err := s.prepare(c.path, fill); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

// take enters a user, when there may be one.
func (m *cacheMounts) take(ctx context.Context, hash string, sharing pb.CacheSharingOpt) (name string, s *mountSlot, err error) {
	for {
		name, s, freed := m.tryTake(hash, sharing)
		if s != nil {
			return name, s, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return "", nil, context.Cause(ctx)
		}
	}
}

// tryTake is take that does not wait: where there is no slot, until freed.
func (m *cacheMounts) tryTake(hash string, sharing pb.CacheSharingOpt) (name string, s *mountSlot, freed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for sharing == pb.CacheSharingOpt_PRIVATE && m.usersOf(slotName(hash, n)) > 0 {
		n++
	}
	name = slotName(hash, n)
	if sharing == pb.CacheSharingOpt_LOCKED && m.usersOf(name) > 0 {
		return "", nil, m.freed
	}
	if s = m.slots[name]; s == nil {
		s = &mountSlot{}
		m.slots[name] = s
	}
	s.users++
	s.uses++
	return name, s, nil
}

func slotName(hash string, n int) string { return fmt.Sprintf("%s-%d", hash, n) }

// usersOf is how many use a directory now. The caller holds m.mu.
func (m *cacheMounts) usersOf(name string) int {
	if s := m.slots[name]; s != nil {
		return s.users
	}
	return 0
}

// prepare makes the directory where it is missing. It appears whole.
func (s *mountSlot) prepare(path string, fill func(dir string) error) error {
	s.filling.Lock()
	defer s.filling.Unlock()
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

// mountUsage is what one cache mount takes.
type mountUsage struct {
	name  string
	size  int64
	inUse bool
	// used is when it was last.
	used time.Time
}

// usage measures all cache mounts, those again that somebody has used since.
func (m *cacheMounts) usage(ctx context.Context) ([]mountUsage, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, err
	}
	var all []mountUsage
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || linux.IsTrash(e.Name()) {
			continue // it has just gone
		}
		u := mountUsage{name: e.Name(), used: info.ModTime()}
		if u.size, u.inUse, err = m.measure(ctx, e.Name()); err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// measure is what one takes. A walk through it holds no lock.
func (m *cacheMounts) measure(ctx context.Context, name string) (size int64, inUse bool, err error) {
	m.mu.Lock()
	s := m.slots[name]
	if s == nil {
		s = &mountSlot{uses: 1} // by an earlier daemon
		m.slots[name] = s
	}
	uses, inUse := s.uses, s.users > 0
	known := s.measured == uses && !inUse
	size = s.size
	m.mu.Unlock()
	if known {
		return size, false, nil
	}
	if size, err = diskUsage(ctx, filepath.Join(m.dir, name)); err != nil {
		return 0, inUse, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !inUse && s.uses == uses {
		s.measured, s.size = uses, size
	}
	return size, inUse, nil
}

// remove deletes one that nobody uses, and reports whether that was so.
func (m *cacheMounts) remove(name string) (bool, error) {
	trash, err := m.discard(name)
	if trash == "" || err != nil {
		return false, err
	}
	return true, linux.RemoveAll(trash)
}

// discard takes one that nobody uses out of sight: builds do not wait for the
// deleting of it.
func (m *cacheMounts) discard(name string) (trash string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.usersOf(name) > 0 {
		return "", nil
	}
	trash, err = linux.SetAside(filepath.Join(m.dir, name))
	if err == nil {
		delete(m.slots, name)
	}
	return trash, err
}

// prune removes what is not in use and was not since a time.
func (m *cacheMounts) prune(ctx context.Context, before time.Time) (int64, error) {
	all, err := m.usage(ctx)
	errs := []error{err}
	var bytes int64
	for _, u := range all {
		if u.inUse || u.used.After(before) {
			continue
		}
		gone, err := m.remove(u.name)
		errs = append(errs, err)
		if gone {
			bytes += u.size
		}
	}
	return bytes, errors.Join(errs...)
}

// diskUsage is what a tree takes, as far as it can be read; only the end of ctx is
// an error.
func diskUsage(ctx context.Context, dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil {
			bytes += st.Blocks * 512
		}
		return ctx.Err()
	})
	return bytes, err
}
