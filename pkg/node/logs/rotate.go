package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// aside is the form of what a rotated file has at the end of its name: names sort
// by age.
const aside = ".20060102-150405.000000000"

// Rotate puts the file of a log aside, lets its writer begin another with reopen,
// and removes the oldest of those that were put aside until there are keep of
// them. After an error of reopen the file is what it was.
func Rotate(path string, keep int, now time.Time, reopen func() error) error {
	old := path + now.UTC().Format(aside)
	if err := os.Rename(path, old); err != nil {
		return fmt.Errorf("put the log aside: %w", err)
	}
	if err := reopen(); err != nil {
		return errors.Join(fmt.Errorf("begin a new log: %w", err), os.Rename(old, path))
	}
	all, err := files(path)
	if err != nil {
		return fmt.Errorf("list the log: %w", err)
	}
	if n := len(all); n > 0 && all[n-1] == path {
		all = all[:n-1]
	}
	for len(all) > keep {
		if err := os.Remove(all[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old log: %w", err)
		}
		all = all[1:]
	}
	return nil
}
