package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

const (
	// layerRecipe makes the layer's tar out of its files, see layer.Assemble.
	layerRecipe = "recipe.zst"
	// layerTar is the whole tar, where a recipe does not give it.
	layerTar = "tar.zst"
)

// applied is what was unpacked.
type applied struct {
	layer.Result
	recipeSize, tarSize int64
}

// apply unpacks a plain tar into the diff of a layer's directory, and reads it
// to its end. The caller calls settle when it believes the result.
func (s *Store) apply(ctx context.Context, tar io.Reader, dir string) (a applied, err error) {
	diff := filepath.Join(dir, layerDiff)
	if err := os.Mkdir(diff, 0o700); err != nil {
		return a, err
	}
	f, err := os.OpenFile(filepath.Join(dir, layerRecipe), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return a, err
	}
	z, err := newZstd(f)
	if err != nil {
		return a, errors.Join(err, f.Close())
	}
	limits := s.config.Limits
	limits.Recipe = z
	a.Result, err = layer.Apply(ctx, tar, diff, limits)
	if err == nil {
		// Apply has seen the end, but may not have asked for it.
		_, err = io.Copy(io.Discard, tar)
	}
	err = errors.Join(err, z.Close())
	if info, statErr := f.Stat(); statErr == nil {
		a.recipeSize = info.Size()
	}
	return a, errors.Join(err, f.Close())
}

// settle counts the recipe with the layer, or takes it away where it is of no
// use.
func (a *applied) settle(dir string, tarSize int64) error {
	if a.Inexact {
		return os.Remove(filepath.Join(dir, layerRecipe))
	}
	a.tarSize = tarSize
	a.Bytes += a.recipeSize
	a.Inodes++
	return nil
}

// newZstd compresses what nobody else will read: fast, and with little memory.
func newZstd(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
}

// keepTar puts the whole tar beside a layer whose recipe does not give it.
func (a *applied) keepTar(ctx context.Context, tar io.Reader, dir string) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, layerTar), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := newZstd(f)
	if err != nil {
		return err
	}
	size, err := io.Copy(z, &contextReader{ctx, tar})
	if err := errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("keep tar: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	a.tarSize = size
	a.Bytes += info.Size()
	a.Inodes++
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // a reader for the length of one call
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// errNoTar is why a layer cannot be made into its tar again.
var errNoTar = fmt.Errorf("its tar was not kept: %w", errdefs.ErrNotFound)

// writeTar writes the uncompressed tar of a committed layer, to the byte the
// one that has its diff ID. The caller holds a reference.
func (s *Store) writeTar(ctx context.Context, d digest.Digest, w io.Writer) error {
	if s.tarSize(d) == 0 {
		return fmt.Errorf("layer %s: %w", d, errNoTar)
	}
	sum := d.Algorithm().Hash()
	if sum == nil {
		sum = sha256.New()
	}
	out := io.MultiWriter(w, sum)
	if err := s.makeTar(ctx, d, out); err != nil {
		return fmt.Errorf("make tar of layer %s: %w", d, err)
	}
	if got := encoded(d.Algorithm(), sum); got != d {
		return malformed("files of layer %s have changed: its tar has digest %s now", d, got)
	}
	return nil
}

// tarSize is the size of what writeTar writes, 0 where it cannot.
func (s *Store) tarSize(d digest.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[d]; l != nil {
		return l.tarSize
	}
	return 0
}

// makeTar makes a tar in one of three ways: of the recipe; of the whole tar that
// was kept; or, for a layer that was packed in the first place, by packing it.
func (s *Store) makeTar(ctx context.Context, d digest.Digest, w io.Writer) (err error) {
	dir := s.layerDir(d)
	whole := false
	f, err := os.Open(filepath.Join(dir, layerRecipe))
	if errors.Is(err, fs.ErrNotExist) {
		whole = true
		f, err = os.Open(filepath.Join(dir, layerTar))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return layer.Export(ctx, filepath.Join(dir, layerDiff), w)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	if whole {
		_, err = io.Copy(w, &contextReader{ctx, z})
		return err
	}
	return layer.Assemble(ctx, filepath.Join(dir, layerDiff), z, w)
}
