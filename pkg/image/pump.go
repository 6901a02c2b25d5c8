package image

import (
	"context"
	"errors"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

const (
	// blockSize is what travels between two steps of a line at once.
	blockSize = 128 << 10
	// pumpBlocks is how far a step may be ahead of the next.
	pumpBlocks = 4
)

// pump moves a stream from one goroutine to another and hashes it on the way.
// One goroutine runs it, another reads from it. Blocks are borrowed from the
// store and always returned.
type pump struct {
	ctx    context.Context //nolint:containedctx // a reader for the length of one call
	store  *Store
	blocks chan block
	hash   hash.Hash
	total  int64 // bytes hashed

	current block // on the reading side
	rest    []byte
	end     error
}

type block struct {
	buf  *[blockSize]byte
	data []byte
	err  error // the end of the stream, after data
}

func (s *Store) newPump(ctx context.Context, h hash.Hash) *pump {
	return &pump{ctx: ctx, store: s, blocks: make(chan block, pumpBlocks), hash: h}
}

// run reads src to its end, or until the context ends.
func (p *pump) run(src io.Reader) {
	defer close(p.blocks)
	for {
		buf, ok := p.store.buffers.Get().(*[blockSize]byte)
		if !ok {
			buf = new([blockSize]byte)
		}
		n, err := p.readBlock(src, buf[:])
		p.hash.Write(buf[:n])
		p.total += int64(n)
		select {
		case p.blocks <- block{buf: buf, data: buf[:n], err: err}:
		case <-p.ctx.Done():
			p.store.buffers.Put(buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// readBlock reads from a decoder of what somebody on the network has sent.
func (p *pump) readBlock(src io.Reader, b []byte) (n int, err error) {
	err = guard.Call(klog.FromContext(p.ctx), "read of a layer", func() error {
		n, err = src.Read(b)
		return err
	})
	return n, err
}

// fail ends the stream before it began.
func (p *pump) fail(err error) {
	p.blocks <- block{err: err}
	close(p.blocks)
}

// Read returns the next bytes; the end of the context ends it as well.
func (p *pump) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.end != nil {
			return 0, p.end
		}
		if p.current.buf != nil {
			p.store.buffers.Put(p.current.buf)
			p.current = block{}
		}
		select {
		case next, ok := <-p.blocks:
			if !ok {
				// run gave up because of the context.
				p.end = errors.Join(context.Cause(p.ctx), io.ErrUnexpectedEOF)
				return 0, p.end
			}
			p.current, p.rest, p.end = next, next.data, next.err
		case <-p.ctx.Done():
			p.end = context.Cause(p.ctx)
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// digest is that of the whole stream, once run has ended.
func (p *pump) digest(a digest.Algorithm) digest.Digest { return digest.NewDigest(a, p.hash) }
