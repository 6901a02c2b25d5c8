package build

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// copy copies what an action selects in source.
func (r *run) copy(ctx context.Context, w *workspace, source string, a *pb.FileActionCopy) error {
	src, dest := cleanPath(a.GetSrc()), cleanPath(a.GetDest())
	own, err := w.chowner(a.GetOwner())
	if err != nil {
		return err
	}
	if !a.GetCreateDestPath() {
		at, err := securejoin.SecureJoin(w.dir, a.GetDest())
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Dir(at)); err != nil {
			return err
		}
	}
	paths := []string{src}
	if a.GetAllowWildcard() {
		if paths, err = fscopy.ResolveWildcards(source, src, a.GetFollowSymlink()); err != nil {
			return err
		}
		if len(paths) == 0 && !a.GetAllowEmptyWildcard() {
			return fmt.Errorf("%s: %w", src, fs.ErrNotExist)
		}
		slices.Sort(paths)
	}
	if err := required(source, a.GetRequiredPaths()); err != nil {
		return err
	}
	o := copyOption(a, own)
	for _, p := range paths {
		if a.GetAttemptUnpackDockerCompatibility() {
			done, err := w.unpack(ctx, source, p, dest, a)
			if err != nil {
				return fmt.Errorf("unpack %s: %w", p, err)
			}
			if done {
				continue
			}
		}
		if err := fscopy.Copy(ctx, source, p, w.dir, dest, o); err != nil {
			return err
		}
	}
	return nil
}

// copyOption translates an action.
func copyOption(a *pb.FileActionCopy, own fscopy.Chowner) fscopy.Opt {
	return func(ci *fscopy.CopyInfo) {
		ci.IncludePatterns, ci.ExcludePatterns = a.GetIncludePatterns(), a.GetExcludePatterns()
		ci.Chown, ci.Utime = own, stamp(a.GetTimestamp())
		if a.GetModeStr() != "" {
			ci.ModeStr = a.GetModeStr()
		} else if m := int(a.GetMode()); m != -1 {
			ci.Mode = &m
		}
		ci.CopyDirContents, ci.FollowLinks = a.GetDirCopyContents(), a.GetFollowSymlink()
		ci.AlwaysReplaceExistingDestPaths = a.GetAlwaysReplaceExistingDestPaths()
		// File systems differ in the attributes they take.
		ci.XAttrErrorHandler = func(_, _, _ string, _ error) error { return nil }
	}
}

// required paths must be there.
func required(source string, paths []string) error {
	for _, p := range paths {
		at, err := securejoin.SecureJoin(source, p)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(at); err != nil {
			return err
		}
	}
	return nil
}

// cleanPath is a path from the root, which keeps what a slash or a dot at its
// end say.
func cleanPath(s string) string {
	clean := filepath.Join("/", s)
	switch {
	case clean == "/":
		return clean
	case strings.HasSuffix(s, "/."):
		return clean + "/."
	case strings.HasSuffix(s, "/"):
		return clean + "/"
	}
	return clean
}

// copyTree copies all that is in a directory to another one.
func copyTree(ctx context.Context, from, to string) error {
	return fscopy.Copy(ctx, from, "/", to, "/", func(ci *fscopy.CopyInfo) {
		ci.CopyDirContents = true
		ci.XAttrErrorHandler = func(_, _, _ string, _ error) error { return nil }
	})
}

// unpack unpacks a local archive, as ADD does. Anything else is left to be
// copied.
func (w *workspace) unpack(ctx context.Context, source, path, dest string, a *pb.FileActionCopy) (done bool, err error) {
	f, err := openInRoot(source, path)
	if err != nil {
		return false, nil // a directory, or nothing: the copy tells
	}
	defer f.Close()
	if !isArchive(f) {
		return false, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	own, err := w.chowner(a.GetOwner())
	if err != nil {
		return false, err
	}
	at, err := securejoin.SecureJoin(w.dir, dest)
	if err != nil {
		return false, err
	}
	if _, err := fscopy.MkdirAll(at, 0o755, own, stamp(a.GetTimestamp())); err != nil {
		return false, err
	}
	// What is in the archive is a stranger's: it is unpacked where it can reach
	// nothing, and copied from there.
	dir, err := w.run.diskDir("archive")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plain, err := decompress(f)
	if err != nil {
		return false, err
	}
	defer plain.Close()
	if err := untar(ctx, plain, dir); err != nil {
		return false, err
	}
	return true, fscopy.Copy(ctx, dir, "/", at, "/", func(ci *fscopy.CopyInfo) {
		ci.CopyDirContents, ci.Chown = true, nil
		if a.GetOwner() != nil {
			ci.Chown = own
		}
		ci.AlwaysReplaceExistingDestPaths = true
		ci.XAttrErrorHandler = func(_, _, _ string, _ error) error { return nil }
	})
}

// isArchive reports whether a file is a tar, compressed or not.
func isArchive(f *os.File) bool {
	r, err := decompress(f)
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = tar.NewReader(io.LimitReader(r, 10<<20)).Next()
	return err == nil
}

// decompress tells how something is compressed by its first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	is := func(m string) bool { return strings.HasPrefix(string(magic), m) }
	switch {
	case is("\x1f\x8b"):
		return gzip.NewReader(in)
	case is("\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case is("BZh"):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case is("\xfd7zXZ\x00"):
		return nil, fmt.Errorf("archives compressed with xz: unpack it, or use gzip or zstd: %w", errdefs.ErrNotImplemented)
	}
	return io.NopCloser(in), nil
}
