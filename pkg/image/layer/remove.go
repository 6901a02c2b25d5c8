package layer

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// remove takes away base in the directory fd, with all below it.
func (a *applier) remove(ctx context.Context, fd int, base string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := statAt(fd, base)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		a.dirs.invalidate()
		if err := a.removeContents(ctx, fd, base); err != nil {
			return err
		}
		if err := unlinkat(fd, base, unix.AT_REMOVEDIR); err != nil {
			return err
		}
		a.usage.Inodes--
		a.usage.Bytes -= dirBytes
		return nil
	case unix.S_IFLNK:
		a.dirs.invalidate()
	case unix.S_IFREG:
		if st.Size > 0 {
			a.in.recipe.lose()
		}
	}
	if err := unlinkat(fd, base, 0); err != nil {
		return err
	}
	if st.Nlink == 1 {
		a.usage.Inodes--
		a.usage.Bytes = max(0, a.usage.Bytes-st.Blocks*512)
	}
	return nil
}

// removeContents empties the directory base. It nests no deeper than
// Options.MaxDepth, as no directory is made below that.
func (a *applier) removeContents(ctx context.Context, parent int, base string) (err error) {
	fd, err := openDirAt(parent, base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("close", unix.Close(fd))) }()
	for {
		names, err := readNames(fd)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := a.remove(ctx, fd, name); err != nil {
				return err
			}
		}
		// What a file system lists after removals is its own affair: start over.
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return os.NewSyscallError("lseek", err)
		}
	}
}
