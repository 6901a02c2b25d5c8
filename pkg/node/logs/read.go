package logs

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Options say what of a log to read.
type Options struct {
	// Path is that of the file being written.
	Path string
	// Tail is how many lines from the end; less than 0 is all.
	Tail int64
	// Since and Until bound the times of records; zero is no bound.
	Since, Until time.Time
	// Follow goes on until Done is closed and everything is read.
	Follow bool
	Done   <-chan struct{}
}

// A batch is sent when there is so much of it, or nothing more for now.
const (
	batchLines = 256
	batchBytes = 256 << 10
)

// errEnough ends a reading at Until.
var errEnough = errors.New("read far enough")

// Read sends the lines of a log in batches, which are the receiver's. It returns
// at the end of the log or, if it follows, when Done is closed or ctx is over.
func Read(ctx context.Context, o Options, send func([]Line) error) error {
	all, err := files(o.Path)
	if err != nil {
		return fmt.Errorf("list log: %w", err)
	}
	at := position{files: all}
	if o.Tail >= 0 {
		if at, err = last(all, o.Tail); err != nil {
			return fmt.Errorf("find the last lines of the log: %w", err)
		}
		if o.Tail == 0 && len(all) > 0 {
			if at, err = theEnd(all[len(all)-1]); err != nil {
				return err
			}
		}
	}
	r := &reader{options: o, send: send}
	err = r.read(ctx, at)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(err, r.flush())
}

// theEnd is the position behind everything that is there.
func theEnd(path string) (position, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return position{}, nil
	}
	if err != nil {
		return position{}, err
	}
	return position{[]string{path}, st.Size()}, nil
}

// reader is one Read under way.
type reader struct {
	options Options
	send    func([]Line) error
	batch   []Line
	size    int
}

func (r *reader) read(ctx context.Context, at position) error {
	for i, path := range at.files {
		offset := int64(0)
		if i == 0 {
			offset = at.offset
		}
		if path == r.options.Path && r.options.Follow {
			return r.follow(ctx, offset)
		}
		if err := r.file(ctx, path, offset); err != nil {
			return err
		}
	}
	if r.options.Follow {
		return r.follow(ctx, 0)
	}
	return nil
}

// file reads a file to its end. One that is gone was removed as too old.
func (r *reader) file(ctx context.Context, path string, offset int64) (err error) {
	f, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var from io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil // cut short by a crash; nothing can be had of it
		}
		if _, err := io.CopyN(io.Discard, z, offset); err != nil {
			return nil // the same
		}
		from = z
	} else if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	_, err = r.records(ctx, from)
	return err
}

// records reads whole records to the end, and returns how many bytes they had.
func (r *reader) records(ctx context.Context, from io.Reader) (read int64, err error) {
	b := bufio.NewReaderSize(from, block)
	for ctx.Err() == nil {
		record, size, err := next(b)
		if err != nil {
			return read, nil //nolint:nilerr // the end, also of a broken file
		}
		read += size
		if line, ok := parse(record); ok {
			if err := r.line(line); err != nil {
				return read, err
			}
		}
	}
	return read, context.Cause(ctx)
}

// line sends a line if it is wanted.
func (r *reader) line(l Line) error {
	switch {
	case !r.options.Since.IsZero() && l.Time.Before(r.options.Since):
		return nil
	case !r.options.Until.IsZero() && l.Time.After(r.options.Until):
		return errEnough
	}
	r.batch = append(r.batch, l)
	r.size += len(l.Text)
	if len(r.batch) < batchLines && r.size < batchBytes {
		return nil
	}
	return r.flush()
}

// flush sends what is waiting.
func (r *reader) flush() error {
	if len(r.batch) == 0 {
		return nil
	}
	batch := r.batch
	r.batch, r.size = nil, 0
	return r.send(batch)
}
