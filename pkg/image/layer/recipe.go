package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A recipe is what a tar has besides the data of its files: headers, padding
// and what follows the end mark, byte for byte, and where each file's data lies.
// With the unpacked files it gives the tar again.
//
//	'R' length bytes          bytes as they were
//	'F' size length path      data of the file at path from the layer's root
//
// Numbers are uvarints. Nothing in it is compressed: it shrinks to a tenth.
const (
	recipeRaw  = 'R'
	recipeFile = 'F'
	// recipeChunk is how many bytes one 'R' may hold.
	recipeChunk = 64 << 10
	// maxRecipeData bounds data of entries that became no file, and of sparse
	// files, whose form in the tar cannot be told from what was unpacked.
	maxRecipeData = 64 << 20
)

// recorder writes a recipe while the tar goes by. The zero recorder, without a
// writer, does nothing.
type recorder struct {
	w      io.Writer
	raw    []byte
	data   int64 // bytes recorded that were data
	silent bool  // what goes by is in a file that the recipe names
	// inexact: the files do not have all data any more.
	inexact bool
	err     error
}

// pass takes in bytes of the tar.
func (r *recorder) pass(p []byte) {
	if r.w == nil || r.silent || r.inexact {
		return
	}
	r.raw = append(r.raw, p...)
	if len(r.raw) >= recipeChunk {
		r.flush()
	}
}

// file notes that the next size bytes are the data of a file. The caller calls
// resume after them.
func (r *recorder) file(path string, size int64) {
	if r.w == nil || size == 0 {
		return
	}
	r.silent = true
	if r.inexact {
		return
	}
	r.flush()
	b := binary.AppendUvarint([]byte{recipeFile}, uint64(size))
	b = binary.AppendUvarint(b, uint64(len(path)))
	r.write(append(b, path...))
}

// dataAsIs announces size bytes of data that are recorded whole.
func (r *recorder) dataAsIs(size int64) {
	if r.data += size; r.data > maxRecipeData {
		r.lose()
	}
}

func (r *recorder) resume() { r.silent = false }

// lose gives the recipe up.
func (r *recorder) lose() {
	r.inexact, r.raw = true, nil
}

func (r *recorder) flush() {
	for len(r.raw) > 0 {
		n := min(len(r.raw), recipeChunk)
		r.write(binary.AppendUvarint([]byte{recipeRaw}, uint64(n)))
		r.write(r.raw[:n])
		r.raw = r.raw[n:]
	}
	r.raw = r.raw[:0]
}

func (r *recorder) write(p []byte) {
	if r.err == nil {
		_, r.err = r.w.Write(p)
	}
}

// finish ends the recipe.
func (r *recorder) finish() error {
	if r.w == nil {
		return nil
	}
	r.flush()
	return r.err
}

// sparse tells whether an entry's data has another form in the tar than in its
// file.
func sparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Assemble writes the tar that a recipe was made from, with the files that it
// was unpacked to in dir. Whether it is the same the caller has to find out by
// its digest. A recipe or a file that cannot be right is errdefs.ErrDataLoss.
func Assemble(ctx context.Context, dir string, recipe io.Reader, w io.Writer) (err error) {
	root, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open layer directory %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("close", unix.Close(root))) }()
	in := bufio.NewReaderSize(recipe, readAhead)
	buf := takeBuffer()
	defer buffers.Put(buf)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		kind, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = assembleRecord(ctx, root, kind, in, w, *buf)
		}
		if err != nil {
			return err
		}
	}
}

func assembleRecord(ctx context.Context, root int, kind byte, in *bufio.Reader, w io.Writer, buf []byte) error {
	size, err := binary.ReadUvarint(in)
	if err != nil {
		return lost("read recipe: %v", err)
	}
	switch kind {
	case recipeRaw:
		if size > recipeChunk {
			return lost("recipe has a piece of %d bytes", size)
		}
		if _, err := io.ReadFull(in, buf[:size]); err != nil {
			return lost("read recipe: %v", err)
		}
		_, err := w.Write(buf[:size])
		return err
	case recipeFile:
		length, err := binary.ReadUvarint(in)
		if err != nil || length == 0 || length > maxPath {
			return lost("recipe has a name of %d bytes: %v", length, err)
		}
		name := make([]byte, length)
		if _, err := io.ReadFull(in, name); err != nil {
			return lost("read recipe: %v", err)
		}
		return assembleFile(ctx, root, string(name), int64(size), w, buf)
	default:
		return lost("recipe has a record of kind %q", kind)
	}
}

// assembleFile copies the data of one file, following no symlink.
func assembleFile(ctx context.Context, root int, name string, size int64, w io.Writer, buf []byte) error {
	parent, base := splitPath(name)
	dir := root
	if parent != "" {
		fd, err := openBeneath(root, parent)
		if err != nil {
			return lost("open directory of %s: %v", quote(name), err)
		}
		dir = fd
		defer func() { _ = unix.Close(fd) }() // a directory that was only looked through
	}
	fd, err := openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return lost("open %s: %v", quote(name), err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != size {
		return lost("%s has %d bytes, its tar had %d", quote(name), info.Size(), size)
	}
	// The reader hides that it is a file: no copy in the kernel, which nobody
	// could interrupt.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(&interruptible{ctx, f}, size), buf)
	if err == nil && n < size {
		err = lost("%s ends at byte %d of %d", quote(name), n, size)
	}
	return err
}

func lost(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrDataLoss)...)
}
