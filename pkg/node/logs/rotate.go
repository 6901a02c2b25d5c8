package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Bounds are how large a log may become.
type Bounds struct {
	// Size in bytes of one file; less than 1 is no bound. A file is larger by what
	// is written between two looks at it.
	Size int64
	// Files is how many there are, with the one being written.
	Files int
}

// stamp makes names that sort by age, and are not taken for kubelet's.
const stamp = "20060102-150405.000000000"

// Rotate puts the file being written aside if it is too large, has reopen begin
// another, and removes the oldest. It reports whether it did. Where reopen fails
// the log is as it was. Where there is no file somebody died between the first two
// steps, and what is written goes to the file that was put aside, without a bound:
// another one is begun.
func Rotate(path string, b Bounds, now time.Time, reopen func() error) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := reopen(); err != nil {
			return false, fmt.Errorf("begin log: %w", err)
		}
		return true, trim(path, max(b.Files, 1))
	}
	if err != nil || b.Size < 1 || info.Size() <= b.Size {
		return false, err
	}
	aside := path + "." + now.UTC().Format(stamp)
	if err := os.Rename(path, aside); err != nil {
		return false, fmt.Errorf("rotate log: %w", err)
	}
	if err := reopen(); err != nil {
		// A hard link does not replace what may have been begun meanwhile.
		if e := os.Link(aside, path); e == nil {
			err = errors.Join(err, os.Remove(aside))
		} else if !errors.Is(e, fs.ErrExist) {
			err = errors.Join(err, e)
		}
		return false, fmt.Errorf("rotate log: %w", err)
	}
	return true, trim(path, max(b.Files, 1))
}

// Size is how large the file being written is, where there is one.
func Size(path string) (size int64, there bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, !errors.Is(err, fs.ErrNotExist)
	}
	return info.Size(), true
}

// trim removes the oldest files of a log until there are n.
func trim(path string, n int) error {
	all, err := files(path)
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	rotated := all
	if len(all) > 0 && all[len(all)-1] == path {
		rotated = all[:len(all)-1]
	}
	for _, old := range rotated[:max(len(rotated)-n+1, 0)] {
		if e := os.Remove(old); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
