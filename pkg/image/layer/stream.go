package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	blockSize  = 512 // of tar
	bufferSize = 256 << 10
	readAhead  = 64 << 10
	unlimited  = -1
)

// buffers and readers are reused because unpacking an image takes one of each
// for every layer. What is in them is never read before it is written.
var buffers, readers sync.Pool

// errHeaderTooLarge ends what archive/tar would otherwise read without bound:
// it limits one PAX header or long name, not how many may follow one another.
var errHeaderTooLarge = errors.New("headers are too large")

// stream is what archive/tar reads from. It is no io.Seeker, so that tar reads
// what it skips and the caller's digest sees it.
type stream struct {
	r         *bufio.Reader
	cancelled func() error
	left      int64 // bytes that may still be read, or unlimited
	err       error // what went wrong with the stream, as opposed to what is in it
	recipe    recorder
}

func takeBuffer() *[]byte {
	if b, ok := buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferSize)
	return &b
}

func newStream(ctx context.Context, r io.Reader) *stream {
	br, ok := readers.Get().(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(nil, readAhead)
	}
	br.Reset(r)
	return &stream{r: br, cancelled: ctx.Err, left: unlimited}
}

// release hands the buffer back. The stream must not be used afterwards.
func (s *stream) release() {
	s.r.Reset(nil)
	readers.Put(s.r)
	s.r = nil
}

// limit allows n more bytes to be read.
func (s *stream) limit(n int64) { s.left = n }

func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if err := s.cancelled(); err != nil {
		s.err = err
		return 0, err
	}
	if s.left == 0 {
		return 0, errHeaderTooLarge
	}
	if s.left > 0 && int64(len(p)) > s.left {
		p = p[:s.left]
	}
	n, err := s.r.Read(p)
	s.recipe.pass(p[:n])
	if s.left > 0 {
		s.left -= int64(n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// drain reads the padding that writers put behind the end mark to fill their
// last record, and whatever else is there, up to limit bytes.
func (s *stream) drain(limit int64) error {
	s.limit(unlimited)
	n, err := io.Copy(io.Discard, io.LimitReader(s, limit+1))
	if err != nil {
		return err
	}
	if n > limit {
		return fmt.Errorf("more than %d bytes follow the end of the archive", limit)
	}
	return nil
}
