package invariant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// modes finds what others could reach or change. The root directory shuts out
// everybody, whatever is below it; the state directory lets containers pass, so
// everything below it counts, but for what is mounted there. Each fact is
// something wrong.
func modes(c Config) ([]Fact, error) {
	var wrong []Fact
	add := func(path, why string, info fs.FileInfo) {
		wrong = append(wrong, Fact{Kind: Mode, What: fmt.Sprintf("%s %s: %v", path, why, info.Mode())})
	}
	if info, err := os.Lstat(c.Root); err == nil && info.Mode() != fs.ModeDir|0o700 {
		add(c.Root, "is open to others", info)
	}
	if info, err := os.Lstat(c.Socket); err == nil && openSocket(info) {
		add(c.Socket, "is open to others", info)
	}
	mounted, err := mountPoints()
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(c.State, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if mounted[path] {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil
		} else if err != nil {
			return err
		}
		switch mode := info.Mode(); {
		case mode&fs.ModeSocket != 0 && openSocket(info):
			add(path, "is open to others", info)
		case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			add(path, "changes the user", info)
		case mode&0o002 != 0 && mode&fs.ModeSocket == 0:
			add(path, "is writable to the world", info)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Getuid() {
			add(path, fmt.Sprintf("belongs to user %d", stat.Uid), info)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk %s: %w", c.State, err)
	}
	return wrong, nil
}

func openSocket(info fs.FileInfo) bool {
	return info.Mode().Perm() != 0o600 && info.Mode().Perm() != 0o660
}
