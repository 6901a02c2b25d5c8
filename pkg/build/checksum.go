package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cyphar/filepath-securejoin"
	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/patternmatcher"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"
)

// selection is a part of a tree that an operation reads.
type selection struct {
	path             string
	wildcard, follow bool
	// contents: of a directory what is in it counts, and not what it is itself.
	contents         bool
	include, exclude []string
}

// checksum is that of all files that are selected: names, modes, owners,
// attributes, contents, and no times.
func checksum(ctx context.Context, root string, s selection) (string, error) {
	paths := []string{s.path}
	if s.wildcard {
		var err error
		if paths, err = fscopy.ResolveWildcards(root, filepath.Join("/", s.path), s.follow); err != nil {
			return "", err
		}
	}
	slices.Sort(paths)
	c := &summer{ctx: ctx, root: root, hash: sha256.New()}
	var err error
	if len(s.include) > 0 {
		if c.include, err = patternmatcher.New(s.include); err != nil {
			return "", fmt.Errorf("include patterns: %w", err)
		}
	}
	if len(s.exclude) > 0 {
		if c.exclude, err = patternmatcher.New(s.exclude); err != nil {
			return "", fmt.Errorf("exclude patterns: %w", err)
		}
	}
	for _, p := range paths {
		if err := c.tree(p, s); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(c.hash.Sum(nil)), nil
}

// summer is one checksum under way.
type summer struct {
	ctx              context.Context //nolint:containedctx // the life of a checksum is that of one call
	root             string
	hash             hash.Hash
	include, exclude *patternmatcher.PatternMatcher
}

// tree adds a file or directory. What is not there adds its absence: whoever
// needs it says so.
func (c *summer) tree(p string, s selection) error {
	at, err := resolve(c.root, p, s.follow)
	if err != nil {
		return err
	}
	info, err := os.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		mixf(c.hash, "absent %q", p)
		return nil
	}
	if err != nil {
		return err
	}
	base := filepath.Base(filepath.Join("/", p))
	if info.IsDir() && s.contents || at == c.root {
		base = ""
	}
	return filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = c.ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(at, path)
		if err != nil {
			return err
		}
		if rel != "." {
			if skip, err := c.skip(rel, d.IsDir()); err != nil || skip {
				if err == nil && d.IsDir() && (c.exclude == nil || !c.exclude.Exclusions()) && c.include == nil {
					return filepath.SkipDir
				}
				return err
			}
		}
		return c.file(path, filepath.Join(base, rel))
	})
}

// skip reports whether patterns leave a file out. Directories on the way to
// what is included count as well.
func (c *summer) skip(rel string, dir bool) (bool, error) {
	if c.exclude != nil {
		if out, err := c.exclude.MatchesOrParentMatches(rel); err != nil || out {
			return out, err
		}
	}
	if c.include != nil && !dir {
		in, err := c.include.MatchesOrParentMatches(rel)
		return !in, err
	}
	return false, nil
}

// file adds one file, link, directory or device.
func (c *summer) file(path, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	mixf(c.hash, "%q %o %d %d", name, st.Mode, st.Uid, st.Gid)
	if err := c.attributes(path); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		mix(c.hash, st.Size)
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(c.hash, f)
		return errors.Join(err, f.Close())
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		mixf(c.hash, "%q", target)
		return err
	case unix.S_IFCHR, unix.S_IFBLK:
		mix(c.hash, st.Rdev)
	}
	return nil
}

// mix adds values to a hash, which takes everything.
func mix(h hash.Hash, values ...any) { _, _ = fmt.Fprintln(h, values...) }

func mixf(h hash.Hash, format string, values ...any) { _, _ = fmt.Fprintf(h, format+"\n", values...) }

// attributes adds the extended attributes that a copy keeps.
func (c *summer) attributes(path string) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "list attributes of", Path: path, Err: err}
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	for _, name := range names {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		if n, err = unix.Lgetxattr(path, name, buf); err != nil {
			return &os.PathError{Op: "read attribute of", Path: path, Err: err}
		}
		mixf(c.hash, "%q %q", name, buf[:n])
	}
	return nil
}

// resolve is where a path leads inside of root, whatever symbolic links there
// are in it; without follow the last part is not followed.
func resolve(root, path string, follow bool) (string, error) {
	path = filepath.Join("/", path)
	if path == "/" {
		return root, nil
	}
	if follow {
		return securejoin.SecureJoin(root, path)
	}
	dir, err := securejoin.SecureJoin(root, filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// openInRoot opens a regular file below root for reading, wherever links lead.
func openInRoot(root, path string) (*os.File, error) {
	at, err := pathrs.OpenInRoot(root, path)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	info, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return pathrs.Reopen(at, unix.O_RDONLY|unix.O_NONBLOCK)
}
