package build

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

// untar unpacks a stranger's tar into an empty directory, and never beside it.
// The code is that of image layers; what has a meaning in a layer alone is taken
// away afterwards.
func untar(ctx context.Context, r io.Reader, dir string) error {
	if _, err := layer.Apply(ctx, r, dir, layer.Options{}); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_ = unix.Lremovexattr(path, "trusted.overlay.opaque") // mostly there is none
			return nil
		}
		if d.Type()&fs.ModeCharDevice == 0 {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Rdev == 0 {
			return os.Remove(path)
		}
		return nil
	})
}

// Extract unpacks the context that a client has sent.
func Extract(ctx context.Context, r io.Reader, dir string) error {
	plain, err := decompress(r)
	if err != nil {
		return fmt.Errorf("build context: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer plain.Close()
	if err := untar(ctx, plain, dir); err != nil {
		return fmt.Errorf("unpack build context: %w", err)
	}
	return nil
}
