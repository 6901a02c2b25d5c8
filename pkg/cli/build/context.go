package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/sys/unix"
)

// ignorePatterns reads a .dockerignore; none is no pattern.
func ignorePatterns(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return patterns, nil
}

// always is sent whatever is ignored: the daemon reads it.
var always = []string{".dockerignore"}

// writeContext writes the files of a directory that are not ignored as a tar,
// in order, all owned by root.
func writeContext(ctx context.Context, s sending, w io.Writer) error {
	if s.tar != nil {
		_, err := io.Copy(w, s.tar)
		return err
	}
	ignored, err := patternmatcher.New(s.ignore)
	if err != nil {
		return fmt.Errorf(".dockerignore: %w", err)
	}
	c := &contextWriter{ctx: ctx, dir: s.dir, ignored: ignored, out: tar.NewWriter(w), links: map[[2]uint64]string{}, written: map[string]bool{}}
	if err := filepath.WalkDir(s.dir, c.visit); err != nil {
		return fmt.Errorf("send build context: %w", err)
	}
	return c.out.Close()
}

// contextWriter is one context on its way.
type contextWriter struct {
	ctx     context.Context //nolint:containedctx // the life of the writer is that of one call
	dir     string
	ignored *patternmatcher.PatternMatcher
	out     *tar.Writer
	links   map[[2]uint64]string
	written map[string]bool // directories
}

func (c *contextWriter) visit(path string, d fs.DirEntry, err error) error {
	if err == nil {
		err = c.ctx.Err()
	}
	if err != nil {
		return err
	}
	name, err := filepath.Rel(c.dir, path)
	if err != nil || name == "." {
		return err
	}
	if !slices.Contains(always, name) {
		out, err := c.ignored.MatchesOrParentMatches(name)
		if err != nil {
			return err
		}
		if out {
			if d.IsDir() && !c.ignored.Exclusions() {
				return filepath.SkipDir
			}
			return nil // a directory is sent with the first file in it
		}
	}
	return c.entry(path, name)
}

// entry writes one file, and first the directories it is in.
func (c *contextWriter) entry(path, name string) error {
	if parent := filepath.Dir(name); parent != "." && !c.written[parent] {
		if err := c.entry(filepath.Dir(path), parent); err != nil {
			return err
		}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 || info.IsDir() && c.written[name] {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Format = filepath.ToSlash(name), tar.FormatPAX
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	if info.IsDir() {
		c.written[name] = true
		h.Name += "/"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, seen := c.links[id]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			c.links[id] = h.Name
		}
	}
	if h.Typeflag != tar.TypeReg {
		return c.out.WriteHeader(h)
	}
	return c.file(path, h)
}

// file writes a regular file as it is now.
func (c *contextWriter) file(path string, h *tar.Header) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if value := make([]byte, 64); true { // file capabilities are what COPY keeps
		if n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", value); err == nil {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(value[:n])}
		}
	}
	if err := c.out.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(c.out, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = fmt.Errorf("%s became shorter while it was sent", h.Name)
	}
	return err
}
