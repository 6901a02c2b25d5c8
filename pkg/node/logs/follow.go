package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// follow reads the file being written, and those that take its place, from an
// offset on.
func (r *reader) follow(ctx context.Context, offset int64) (err error) {
	n, err := newNotifier(r.options.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	var f *os.File
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	until := make(<-chan time.Time)
	if !r.options.Until.IsZero() {
		timer := time.NewTimer(time.Until(r.options.Until))
		defer timer.Stop()
		until = timer.C
	}
	done := r.options.Done
	for last := false; ; {
		if f == nil {
			if f, err = r.openNext(nil, offset); err != nil {
				return err
			}
			offset = 0
		}
		if f != nil {
			if f, err = r.catchUp(ctx, f); err != nil {
				return err
			}
		}
		if err := r.flush(); err != nil {
			return err
		}
		if last {
			return nil
		}
		select {
		case <-n.more:
			n.watchFile()
		case <-done:
			last, done = true, nil
		case <-until:
			last = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// catchUp reads a file to its end and goes on with what has taken its place. It
// returns the file being written, or nil where there is none yet.
func (r *reader) catchUp(ctx context.Context, f *os.File) (*os.File, error) {
	for {
		// What is rotated has been written to its end when another is there.
		replaced, err := r.replaced(f)
		if err != nil {
			return f, err
		}
		if err := r.toEnd(ctx, f); err != nil {
			return f, err
		}
		if !replaced {
			return f, nil
		}
		next, err := r.openNext(f, 0)
		if err != nil {
			return f, err
		}
		if err := f.Close(); err != nil || next == nil {
			return next, err
		}
		f = next
	}
}

// toEnd reads whole records, and leaves the file where the next will be.
func (r *reader) toEnd(ctx context.Context, f *os.File) error {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if st, err := f.Stat(); err == nil && st.Size() < at {
		at = 0 // somebody emptied it
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	n, err := r.records(ctx, f)
	if err != nil {
		return err
	}
	_, err = f.Seek(at+n, io.SeekStart)
	return err
}

// replaced reports whether another file is being written than f.
func (r *reader) replaced(f *os.File) (bool, error) {
	now, err := os.Stat(r.options.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // renamed, and still being written
	}
	if err != nil {
		return false, err
	}
	was, err := f.Stat()
	return err == nil && !os.SameFile(now, was), err
}

// openNext opens the file after f, or the one being written where f is nil or
// gone. There may be none yet.
func (r *reader) openNext(f *os.File, offset int64) (*os.File, error) {
	path := r.options.Path
	if f != nil {
		all, err := files(path)
		if err != nil {
			return nil, err
		}
		was, err := f.Stat()
		if err != nil {
			return nil, err
		}
		for i, name := range all[:max(len(all)-1, 0)] {
			if st, err := os.Stat(name); err == nil && os.SameFile(st, was) && filepath.Ext(all[i+1]) != ".gz" {
				path = all[i+1]
			}
		}
	}
	next, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := next.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, next.Close())
	}
	return next, nil
}

// notifier says when there may be more to read.
type notifier struct {
	path string
	f    *os.File
	fd   int
	more chan struct{}
	done chan struct{}
}

func newNotifier(path string) (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &notifier{path: path, f: os.NewFile(uintptr(fd), "inotify"), fd: fd, more: make(chan struct{}, 1), done: make(chan struct{})}
	// The file is watched by itself: others in its directory are written, too.
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", filepath.Dir(path), err), n.f.Close())
	}
	n.watchFile()
	go n.run()
	return n, nil
}

// watchFile watches the file that is being written now. It may be watched
// already, or not be there.
func (n *notifier) watchFile() {
	_, _ = unix.InotifyAddWatch(n.fd, n.path, unix.IN_MODIFY|unix.IN_MOVE_SELF)
}

// run ends when the notifier is closed.
func (n *notifier) run() {
	defer close(n.done)
	b := make([]byte, 16*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		if _, err := n.f.Read(b); err != nil {
			return
		}
		select {
		case n.more <- struct{}{}:
		default:
		}
	}
}

func (n *notifier) close() error {
	err := n.f.Close()
	<-n.done
	return err
}
