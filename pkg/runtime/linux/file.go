package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Durability says what a written file has to survive.
type Durability int

const (
	// SurviveProcess is enough for what dies with the boot anyway: the file
	// is whole after any process is killed at any moment, but a power cut may
	// lose it. It costs no fsync.
	SurviveProcess Durability = iota
	// SurvivePower also fsyncs the file and its directory.
	SurvivePower
)

// tempMark is in the name of every temporary file WriteFileAtomic makes, so
// that start-up can tell leftovers from data.
const tempMark = ".tmp-"

// WriteFileAtomic replaces path with data: readers, and whoever comes after a
// crash, see the old content or the new one and never a part. The directory
// must exist.
func WriteFileAtomic(path string, data []byte, perm fs.FileMode, durability Durability) (err error) {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, "."+name+tempMark+"*")
	if err != nil {
		return fmt.Errorf("create temporary file for %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreNotExist(os.Remove(f.Name())))
		}
	}()
	if err := writeAndClose(f, data, perm, durability); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if durability == SurvivePower {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// writeAndClose fills f and closes it on every path; an error of Close counts,
// because file systems may report a full disk only there.
func writeAndClose(f *os.File, data []byte, perm fs.FileMode, durability Durability) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil && durability == SurvivePower {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir fsyncs a directory, which makes renames and removals in it durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// IsTemporary reports whether a file name is a leftover of WriteFileAtomic.
func IsTemporary(name string) bool {
	return strings.HasPrefix(name, ".") && strings.Contains(name, tempMark)
}

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// Lock takes an exclusive flock on path, creating it with mode 0600. The lock
// lasts until the returned file is closed or the process dies. It returns
// ErrLocked instead of waiting.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		closeErr := f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), closeErr)
	}
	return f, nil
}

// ignoreNotExist turns "was not there" into success.
func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
