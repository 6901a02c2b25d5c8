package checkpoint

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Content is what goes into an archive.
type Content struct {
	Container Container
	Stdio     [3]string
	TTY       bool
	// Spec is the OCI spec, Images the directory of CRIU's images and Diff the
	// file with the changes of the root file system.
	Spec         []byte
	Images, Diff string
}

// source is a file on its way into an archive: in memory, or at a path.
type source struct {
	name, path string
	content    []byte
}

// Write writes an archive. The files must not change meanwhile.
func (k Key) Write(ctx context.Context, w io.Writer, c Content) error {
	sources, err := c.sources()
	if err != nil {
		return err
	}
	m := Manifest{Version: version, Container: c.Container, Stdio: c.Stdio, TTY: c.TTY}
	for _, s := range sources {
		f := File{Name: s.name}
		h := sha256.New()
		if f.Size, err = s.copy(ctx, h); err != nil {
			return fmt.Errorf("read %s of the checkpoint: %w", s.name, err)
		}
		f.SHA256 = hex.EncodeToString(h.Sum(nil))
		m.Files = append(m.Files, f)
	}
	document, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("encode manifest of the checkpoint: %w", err)
	}
	// The manifest comes first, so that a reader can verify as it goes.
	head := []source{{name: manifestName, content: document}, {name: macName, content: []byte(k.sign(document))}}
	sizes := []int64{int64(len(document)), int64(len(head[1].content))}
	for _, f := range m.Files {
		sizes = append(sizes, f.Size)
	}
	out := tar.NewWriter(w)
	for i, s := range append(head, sources...) {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: s.name, Size: sizes[i], Mode: 0o600, ModTime: c.Container.CheckpointedAt.Truncate(time.Second)}
		if err := out.WriteHeader(hdr); err != nil {
			return fmt.Errorf("write %s of the checkpoint: %w", s.name, err)
		}
		if _, err := s.copy(ctx, out); err != nil {
			return fmt.Errorf("write %s of the checkpoint: %w", s.name, err)
		}
	}
	return out.Close()
}

func (c Content) sources() ([]source, error) {
	config, err := json.MarshalIndent(map[string]any{
		"id": c.Container.ID, "name": c.Container.Name, "runtime": c.Container.Handler,
		"rootfsImage": c.Container.ImageID, "rootfsImageName": c.Container.ImageRef,
		"createdTime": c.Container.CreatedAt, "checkpointedTime": c.Container.CheckpointedAt,
	}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode configuration of the checkpoint: %w", err)
	}
	list := []source{{name: configName, content: config}, {name: specName, content: c.Spec}}
	entries, err := os.ReadDir(c.Images)
	if err != nil {
		return nil, fmt.Errorf("list process images: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			return nil, fmt.Errorf("process image %s is no file", e.Name())
		}
		list = append(list, source{name: imagesPrefix + e.Name(), path: filepath.Join(c.Images, e.Name())})
	}
	return append(list, source{name: diffName, path: c.Diff}), nil
}

func (s source) copy(ctx context.Context, w io.Writer) (int64, error) {
	if s.path == "" {
		n, err := w.Write(s.content)
		return int64(n), err
	}
	f, err := os.Open(s.path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return io.Copy(w, reader{ctx, f})
}

// reader ends a long read with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // the life of the reader is that of one call
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
