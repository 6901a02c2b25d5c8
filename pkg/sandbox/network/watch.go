package network

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settleTime is how long the directory must be quiet before it is read:
// installers write, chmod and rename in quick succession.
const settleTime = 100 * time.Millisecond

// confWatch tells when the configuration directory may have changed. While
// the directory does not exist it watches the nearest ancestor that does.
type confWatch struct {
	dir     string
	inotify *fsnotify.Watcher
}

func newConfWatch(dir string) (*confWatch, error) {
	inotify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &confWatch{dir: filepath.Clean(dir), inotify: inotify}, nil
}

func (w *confWatch) close() error {
	if err := w.inotify.Close(); err != nil {
		return fmt.Errorf("stop watching %s: %w", w.dir, err)
	}
	return nil
}

// run calls changed after every burst of events until ctx ends.
func (w *confWatch) run(ctx context.Context, changed func()) {
	settle := time.NewTimer(settleTime)
	settle.Stop()
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.inotify.Events:
			if !ok {
				return
			}
			if w.concerns(e.Name) {
				settle.Reset(settleTime)
			}
		case _, ok := <-w.inotify.Errors:
			if !ok {
				return
			}
			// A queue that overflowed has lost events.
			settle.Reset(settleTime)
		case <-settle.C:
			w.follow()
			changed()
		}
	}
}

// concerns keeps events of an ancestor's other children from causing reloads.
func (w *confWatch) concerns(path string) bool {
	if filepath.Dir(path) == w.dir || path == w.dir {
		return true
	}
	rel, err := filepath.Rel(path, w.dir)
	return err == nil && filepath.IsLocal(rel)
}

// follow watches the directory and the nearest ancestor that exists: the
// ancestor tells when the directory is made or replaced. Watching again what
// is watched already changes nothing. Errors need no handling: the ancestor
// that exists in the end is "/".
func (w *confWatch) follow() {
	_ = w.inotify.Add(w.dir)
	for p := filepath.Dir(w.dir); ; p = filepath.Dir(p) {
		if err := w.inotify.Add(p); err == nil || p == filepath.Dir(p) {
			return
		}
	}
}
