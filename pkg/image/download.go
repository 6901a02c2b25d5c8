package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/registry"
	"github.com/cri-node/cri-node/pkg/progress"
)

const (
	// maxFruitless is how many requests in a row may bring nothing.
	maxFruitless = 5
	// minProgress is what has to arrive within the progress timeout: a
	// registry that trickles single bytes is as good as a silent one.
	minProgress = 4 << 10
	// retryDelay is the first pause before a request is made again; it doubles.
	retryDelay = 100 * time.Millisecond
)

var errStalled = errors.New("registry sent nothing for too long")

// opener opens a blob at an offset.
type opener func(ctx context.Context, offset int64) (io.ReadCloser, error)

// download reads a blob from beginning to end, whatever happens on the way: it
// first repeats what an earlier attempt left in a file, and asks the registry
// for the rest; after a reset, a short body or a stall it asks again from where
// it was. It checks that the size is right, and leaves digests to its user.
type download struct {
	ctx     context.Context //nolint:containedctx // a reader for the length of one call
	open    opener
	size    int64
	timeout time.Duration
	file    *os.File // nil: nothing is kept
	count   func(int64)

	offset    int64       // of the next byte
	have      int64       // bytes in file from before
	arrived   func(n int) // told of the bytes that came from the registry
	body      io.ReadCloser
	cancel    context.CancelCauseFunc
	timer     *time.Timer
	budget    time.Duration // left for minProgress to arrive
	window    int64         // bytes that arrived of it
	fruitless int
	// resumed says that the bytes come from more than one answer, so that
	// they may not belong together.
	resumed bool
	// failed is why no more bytes come. It is nil where the content is the
	// trouble and not the way it came, or where ctx ended.
	failed error
}

func (s *Store) newDownload(ctx context.Context, session *registry.Session, desc ocispec.Descriptor) *download {
	return &download{
		ctx:     ctx,
		size:    desc.Size,
		timeout: s.config.ProgressTimeout,
		count:   func(int64) {},
		arrived: func(n int) { s.received.Add(uint64(n)) },
		open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			return session.Fetch(ctx, desc, offset)
		},
	}
}

// keep makes the download write what arrives to a file, and begin with what is
// in it. It takes ownership of the file.
func (d *download) keep(f *os.File, count func(int64)) error {
	d.file, d.count = f, count
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.have = info.Size()
	if d.have > d.size {
		if err := f.Truncate(0); err != nil {
			return err
		}
		count(-d.have)
		d.have = 0
	}
	d.resumed = d.have > 0
	return nil
}

// show tells a board how far the download is.
func (d *download) show(b *layerBoard) {
	b.got.Store(d.have)
	b.set(statusDownloading)
	arrived := d.arrived
	d.arrived = func(n int) {
		arrived(n)
		if n > 0 && b.got.Add(int64(n)) == d.size {
			b.set(statusExtracting)
		}
	}
	if d.have == d.size {
		b.set(statusExtracting)
	}
}

// tell makes the stages of the run that ctx belongs to say how far the download
// is, and returns the context of its stage. When all bytes are there, what is left
// is to unpack them.
func (d *download) tell(ctx context.Context) context.Context {
	stages := stagesOf(ctx)
	if stages == nil {
		return ctx
	}
	var got atomic.Int64
	got.Store(d.have)
	below := progress.Enter(ctx, "download")
	stages.Detail(func() string { return fmt.Sprintf("%d of %d bytes", got.Load(), d.size) })
	count := d.arrived
	d.arrived = func(n int) {
		count(n)
		if n > 0 && got.Add(int64(n)) == d.size {
			progress.Enter(ctx, "unpack")
		}
	}
	if d.have == d.size {
		return progress.Enter(ctx, "unpack")
	}
	return below
}

func (d *download) Read(p []byte) (int, error) {
	if d.failed != nil {
		return 0, d.failed
	}
	if d.offset == d.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if d.offset < d.have {
		n, err := d.file.ReadAt(p[:min(int64(len(p)), d.have-d.offset)], d.offset)
		d.offset += int64(n)
		if n > 0 {
			return n, nil
		}
		d.failed = fmt.Errorf("read partial download: %w", err)
		return 0, d.failed
	}
	n, err := d.readNetwork(p)
	if err == nil && d.file != nil {
		if _, err = d.file.WriteAt(p[:n], d.offset); err == nil {
			d.count(int64(n))
		}
	}
	if err != nil {
		if d.ctx.Err() == nil {
			d.failed = err
		}
		return 0, err
	}
	d.offset += int64(n)
	return n, nil
}

// readNetwork returns at least one byte or an error that no further request
// would cure.
func (d *download) readNetwork(p []byte) (int, error) {
	for {
		err := d.ctx.Err()
		if err == nil && d.body == nil {
			err = d.request()
		}
		n := 0
		if err == nil {
			n, err = d.timedRead(p)
		}
		if n > 0 {
			d.fruitless = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		d.hangUp()
		if d.ctx.Err() != nil {
			return 0, context.Cause(d.ctx)
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("body ends at byte %d of %d: %w", d.offset, d.size, io.ErrUnexpectedEOF)
		}
		if !transient(err) {
			return 0, err
		}
		if d.fruitless++; d.fruitless >= maxFruitless {
			if !errors.Is(err, ErrRegistryUnavailable) {
				err = fmt.Errorf("%w: %w", ErrRegistryUnavailable, err)
			}
			return 0, err
		}
		if err := d.pause(); err != nil {
			return 0, err
		}
	}
}

// transient tells what another request may cure.
func transient(err error) bool {
	return errors.Is(err, errStalled) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrRegistryUnavailable)
}

// request asks for the rest of the blob.
func (d *download) request() error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	body, err := d.open(ctx, d.offset)
	if err != nil {
		cancel(nil)
		return err
	}
	d.resumed = d.resumed || d.offset > 0
	d.body, d.cancel = body, cancel
	d.budget, d.window = d.timeout, 0
	d.timer = time.AfterFunc(d.budget, func() { cancel(errStalled) })
	return nil
}

// timedRead reads with the timer running: the time that the unpacking takes
// between two reads is not the registry's fault.
func (d *download) timedRead(p []byte) (int, error) {
	start := time.Now()
	d.timer.Reset(max(d.budget, time.Millisecond))
	n, err := d.body.Read(p)
	if d.arrived != nil {
		d.arrived(n)
	}
	d.timer.Stop()
	d.budget -= time.Since(start)
	if d.window += int64(n); d.window >= minProgress {
		d.budget, d.window = d.timeout, 0
	}
	return n, err
}

func (d *download) hangUp() {
	if d.body == nil {
		return
	}
	d.timer.Stop()
	d.cancel(nil)
	// The body was cancelled: an error of Close says nothing new.
	_ = d.body.Close()
	d.body = nil
}

func (d *download) pause() error {
	return pause(d.ctx, retryDelay<<(d.fruitless-1))
}

// Close ends the request and closes the file.
func (d *download) Close() error {
	d.hangUp()
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}
