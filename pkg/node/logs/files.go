package logs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// files lists what there is of a log, the oldest first. What was rotated has a
// name that sorts by its age.
func files(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rotated []string
	current := false
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		switch {
		case !ok || !e.Type().IsRegular():
		case suffix == "":
			current = true
		case len(suffix) > 1 && suffix[0] == '.' && suffix[1] >= '0' && suffix[1] <= '9' && !strings.HasSuffix(suffix, ".tmp"):
			rotated = append(rotated, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(rotated)
	// While one is compressed it is there twice.
	rotated = slices.CompactFunc(rotated, func(a, b string) bool { return a+".gz" == b })
	if current {
		rotated = append(rotated, path)
	}
	return rotated, nil
}

// open opens a file of a log that is not to be waited on.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// position is where to begin to read.
type position struct {
	files  []string // the first is where offset is
	offset int64
}

// last finds the position of the last n lines of files.
func last(all []string, n int64) (position, error) {
	for i, path := range slices.Backward(all) {
		offset, found, err := lastIn(path, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return position{}, err
		}
		if found >= n {
			return position{all[i:], offset}, nil
		}
		n -= found
	}
	return position{files: all}, nil
}

// lastIn finds the offset of the last n lines in a file, and how many of them
// there are.
func lastIn(path string, n int64) (offset, found int64, err error) {
	f, err := open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	if strings.HasSuffix(path, ".gz") {
		return lastPacked(f, n)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	return lastPlain(f, size, n)
}

// block is how much is read at a time from the end.
const block = 64 << 10

// lastPlain reads records from the end until n lines are found. The offset is
// that of the first record of the first of them.
func lastPlain(f io.ReaderAt, size, n int64) (offset, found int64, err error) {
	var rest []byte // the beginning of the record that the last block began in
	end := true     // what is at the end may be a part of a line, which counts
	for at := size; ; {
		length := min(at, block)
		b := make([]byte, length, int64(len(rest))+length)
		if _, err := f.ReadAt(b, at-length); err != nil {
			return 0, 0, err
		}
		at -= length
		b = append(b, rest...)
		stop := int64(len(b))
		// Each record ends at stop and begins after a newline.
		for {
			begin := int64(bytes.LastIndexByte(bytes.TrimSuffix(b[:stop], []byte("\n")), '\n')) + 1
			if begin == 0 && at > 0 {
				break
			}
			record := bytes.TrimSuffix(b[begin:stop], []byte("\n"))
			if whole(record) || end && len(record) > 0 {
				if found == n {
					return at + stop, found, nil
				}
				found++
				end = false
			}
			stop = begin
			if begin == 0 {
				break
			}
		}
		if at == 0 {
			return 0, found, nil
		}
		rest = b[:stop]
		if len(rest) > maxRecord {
			rest = nil // no record; it is passed over
		}
	}
}

// lastPacked reads a compressed file from its beginning.
func lastPacked(f io.Reader, n int64) (offset, found int64, err error) {
	z, err := gzip.NewReader(f)
	if err != nil {
		return 0, 0, nil //nolint:nilerr // cut short by a crash; nothing can be had of it
	}
	starts := []int64{0} // of the last n lines
	r := bufio.NewReaderSize(z, block)
	for at := int64(0); ; {
		record, size, err := next(r)
		if err != nil { // the end, also of what a crash cut short
			return starts[0], min(found, n), nil //nolint:nilerr // see above
		}
		at += size
		if whole(record) {
			found++
			starts = append(starts, at)
			if int64(len(starts)) > n+1 {
				starts = starts[1:]
			}
		}
	}
}

// maxRecord is the longest record that is read: the monitor splits lines far
// below it.
const maxRecord = 1 << 20

// next reads one record, without its newline, and how many bytes it took. A
// record that has no newline yet is io.EOF. One that is too long is empty.
func next(r *bufio.Reader) (record []byte, size int64, err error) {
	for {
		part, err := r.ReadSlice('\n')
		size += int64(len(part))
		if size <= maxRecord {
			record = append(record, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, size, err
		}
		if size > maxRecord {
			return nil, size, nil
		}
		return bytes.TrimSuffix(record, []byte("\n")), size, nil
	}
}
