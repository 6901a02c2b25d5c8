package build

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// cacheRecord is what cache/<key>.json has. When it was used last is the time of
// the file.
type cacheRecord struct {
	Layers []built `json:"layers"`
	Name   string  `json:"name,omitempty"`
}

// cached is a record in memory.
type cached struct {
	cacheRecord
	used time.Time
}

// cache has the results of operations by their keys. Their layers are kept in
// the image store under the same keys.
type cache struct {
	dir    string
	images *image.Store

	mu      sync.Mutex
	records map[string]*cached
}

const recordSuffix = ".json"

func (c *cache) path(key string) string { return filepath.Join(c.dir, key+recordSuffix) }

// openCache enters all records whose layers are there, and takes away the
// others and layers without a record.
func openCache(ctx context.Context, dir string, images *image.Store) (*cache, error) {
	c := &cache{dir: dir, images: images, records: map[string]*cached{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, id := range images.Holds() {
		kept[id] = true
	}
	for _, e := range entries {
		key, isRecord := strings.CutSuffix(e.Name(), recordSuffix)
		if linux.IsTemporary(e.Name()) || !isRecord || !kept[keepKey(key)] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		record, _, err := linux.LoadRecord[cacheRecord](c.path(key))
		info, err2 := e.Info()
		if errors.Join(err, err2) != nil {
			continue // released below, and overwritten one day
		}
		c.records[key] = &cached{cacheRecord: record, used: info.ModTime()}
	}
	for key := range kept {
		if name, ours := strings.CutPrefix(key, keepPrefix); ours && c.records[name] == nil {
			if err := images.Release(ctx, key); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// keepPrefix tells keys of builds from others'.
const keepPrefix = "build-"

func keepKey(key string) string { return keepPrefix + key }

// get finds a result.
func (c *cache) get(key string) (result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.records[key]
	if r == nil {
		return result{}, false
	}
	r.used = time.Now()
	// What is lost by a failure is that the record looks older than it is.
	_ = os.Chtimes(c.path(key), r.used, r.used)
	return result{layers: slices.Clone(r.Layers)}, true
}

// put keeps a result.
func (c *cache) put(ctx context.Context, key string, res result, name string) error {
	if res.dir != "" {
		return nil
	}
	if err := c.images.Hold(ctx, keepKey(key), res.stack()); err != nil {
		return err
	}
	record := cacheRecord{Layers: res.layers, Name: name}
	if err := linux.SaveRecord(c.path(key), record, linux.SurviveProcess); err != nil {
		return errors.Join(err, c.images.Release(context.WithoutCancel(ctx), keepKey(key)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records[key] = &cached{cacheRecord: record, used: time.Now()}
	return nil
}

// remove forgets a record. The caller holds c.mu.
func (c *cache) remove(ctx context.Context, key string) error {
	delete(c.records, key)
	err := os.Remove(c.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, c.images.Release(ctx, keepKey(key)))
}

// usage adds up the layers of all records, each once.
func (c *cache) usage() (bytes int64, results int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size(), len(c.records)
}

// size is that of all layers that a record has made. The caller holds c.mu.
func (c *cache) size() (bytes int64) {
	seen := map[digest.Digest]bool{}
	for _, r := range c.records {
		for _, l := range r.Layers {
			// A layer of a base image is not the cache's.
			if !l.Created.IsZero() && l.DiffID != "" && !seen[l.DiffID] {
				seen[l.DiffID] = true
				bytes += c.images.LayerSize(l.DiffID)
			}
		}
	}
	return bytes
}

// trim removes what was not used for the longest time, and last before a time,
// until the rest is within the limit, and reports whether it is.
func (c *cache) trim(ctx context.Context, limit int64, before time.Time) (within bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size() <= limit {
		return true, nil
	}
	var errs []error
	for _, key := range c.byAge() {
		if !c.records[key].used.Before(before) {
			break
		}
		errs = append(errs, c.remove(ctx, key))
		if c.size() <= limit {
			return true, errors.Join(errs...)
		}
	}
	return false, errors.Join(errs...)
}

// byAge are the keys, the one unused for the longest time first.
func (c *cache) byAge() []string {
	var keys []string
	for key := range c.records {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(c.records[a].used.Compare(c.records[b].used), cmp.Compare(a, b))
	})
	return keys
}

// prune removes what was last used before a time, and says how many bytes that
// was.
func (c *cache) prune(ctx context.Context, before time.Time) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := c.size()
	var errs []error
	for _, key := range c.byAge() {
		if c.records[key].used.Before(before) {
			errs = append(errs, c.remove(ctx, key))
		}
	}
	return size - c.size(), errors.Join(errs...)
}
