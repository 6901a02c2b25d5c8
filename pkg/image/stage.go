package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image/registry"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// maxZstdWindow is the memory one zstd layer may make us hold.
const maxZstdWindow = 128 << 20

// stage downloads, verifies and unpacks one layer into staging, and notes it
// in the store. Pieces of different downloads that do not fit together are
// thrown away, once, and fetched anew.
func (s *Store) stage(ctx context.Context, session *registry.Session, l layerSource) error {
	ctx = progress.Enter(ctx, "wait for others")
	if err := s.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer s.slots.Release(1)
	// Another pull may have been here while we waited; see layerKey.
	if s.hasLayer(l.diffID) {
		return nil
	}
	again, err := s.stageOnce(ctx, session, l)
	if again {
		_, err = s.stageOnce(ctx, session, l)
	}
	return err
}

// stageOnce is one attempt. again says that another from the beginning makes
// sense; what was downloaded is gone then.
func (s *Store) stageOnce(ctx context.Context, session *registry.Session, l layerSource) (again bool, err error) {
	path := s.partialPath(l.key())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	d := s.newDownload(ctx, session, l.blob)
	if err := d.keep(f, func(n int64) { s.partial.Add(n) }); err != nil {
		return false, errors.Join(fmt.Errorf("reuse partial download: %w", err), d.Close())
	}
	shown := s.boards.layer(l)
	defer s.boards.leave(l)
	d.show(shown)
	ctx = d.tell(ctx)
	dir, err := os.MkdirTemp(s.path(dirStaging), "")
	if err != nil {
		return false, errors.Join(err, d.Close())
	}
	var result applied
	if l.file {
		result, err = saveBlob(d, l, dir)
	} else {
		result, err = s.unpack(ctx, d, l, dir)
	}
	err = errors.Join(err, d.Close())
	record := newLayerUsage(l.diffID, result)
	if err == nil {
		err = linux.SaveRecord(filepath.Join(dir, layerRecord), record, linux.SurviveProcess)
	}
	if err != nil {
		s.discard(dir)
		// What came over the wire is worth keeping unless it is wrong or
		// nobody wants it.
		wrong := ctx.Err() == nil && !full(err) && (d.failed == nil || errors.Is(d.failed, errdefs.ErrFailedPrecondition))
		if wrong || errors.Is(context.Cause(ctx), errAbandoned) {
			s.removePartial(path)
		}
		// Pieces of different answers may just not belong together.
		return wrong && d.resumed, err
	}
	s.stagedLayer(l, dir, record)
	shown.set(statusComplete)
	return false, nil
}

func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// stagedLayer notes a finished layer, unless nobody needs it any more or
// another blob has brought the same one.
func (s *Store) stagedLayer(l layerSource, dir string, record layerUsage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.layers[l.diffID]
	if e == nil || e.state != layerAbsent {
		s.discard(dir)
		s.removePartial(s.partialPath(l.key()))
		return
	}
	e.state, e.dir, e.partial = layerStaged, dir, s.partialPath(l.key())
	e.describe(record)
	e.implied = record.implied()
}

// unpack runs the line: two goroutines and the caller, each with a few blocks
// of room, so that the slowest step sets the pace and not their sum.
//
//	download -> sha256 -> | -> decompress -> sha256 -> | -> layer.Apply
func (s *Store) unpack(ctx context.Context, d *download, l layerSource, dir string) (result applied, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var line sync.WaitGroup
	d.ctx = ctx
	blob := s.newPump(ctx, l.blob.Digest.Algorithm().Hash())
	content := s.newPump(ctx, l.diffID.Algorithm().Hash())
	line.Go(func() { blob.run(d) })
	line.Go(func() {
		var plain io.ReadCloser
		err := guard.Call(klog.FromContext(ctx), "decompression", func() (err error) {
			plain, err = decompress(blob)
			return err
		})
		if err != nil {
			content.fail(fmt.Errorf("decompress: %w", err))
			return
		}
		defer plain.Close()
		content.run(plain)
	})
	result, err = s.apply(ctx, content, dir)
	cancel(err)
	line.Wait()
	if err != nil {
		if d.failed != nil {
			// Whatever came of it further down is not the cause.
			err = d.failed
		}
		return result, err
	}
	if got := blob.digest(l.blob.Digest.Algorithm()); got != l.blob.Digest || blob.total != l.blob.Size {
		return result, malformed("blob has digest %s and %d bytes, want %s and %d", got, blob.total, l.blob.Digest, l.blob.Size)
	}
	if got := content.digest(l.diffID.Algorithm()); got != l.diffID {
		return result, malformed("blob unpacks to diff id %s, the image config says %s", got, l.diffID)
	}
	return result, result.settle(dir, content.total)
}

// decompress tells gzip and zstd by their first bytes; anything else is taken
// for tar as it is.
func decompress(r io.Reader) (io.ReadCloser, error) {
	// inflate has a fast path for exactly this type.
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		return gzip.NewReader(in)
	case len(magic) == 4 && magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd,
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && magic[1] == 0x2a && magic[2] == 0x4d && magic[3] == 0x18: // a skippable frame
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	default:
		return io.NopCloser(in), nil
	}
}
