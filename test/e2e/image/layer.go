package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// File is one entry of a layer. The zero Type is a regular file.
type File struct {
	Name     string
	Type     byte
	Mode     int64
	UID, GID int
	Data     []byte
	Link     string
	Xattrs   map[string]string
}

// Dir is a directory entry with mode 0755.
func Dir(name string) File { return File{Name: name + "/", Type: tar.TypeDir, Mode: 0o755} }

// Text is a regular file with mode 0644.
func Text(name, content string) File {
	return File{Name: name, Mode: 0o644, Data: []byte(content)}
}

// Form is how a layer is stored in the registry.
type Form struct {
	// Compression is "gzip" (or empty), "zstd" or "plain".
	Compression string
	// Docker selects the Docker media types instead of the OCI ones.
	Docker bool
}

// layer is an in-memory v1.Layer of any compression.
type layer struct {
	plain, stored  []byte
	digest, diffID v1.Hash
	mediaType      types.MediaType
}

// NewLayer packs files, in their order, into a layer of the form.
func NewLayer(form Form, files ...File) (v1.Layer, error) {
	plain, err := archive(files)
	if err != nil {
		return nil, err
	}
	stored, err := compress(form.Compression, plain)
	if err != nil {
		return nil, err
	}
	return &layer{
		plain: plain, stored: stored,
		digest: hash(stored), diffID: hash(plain),
		mediaType: mediaType(form),
	}, nil
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *layer) Size() (int64, error)                { return int64(len(l.stored)), nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.mediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.stored)), nil
}
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.plain)), nil
}

func hash(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func mediaType(f Form) types.MediaType {
	base, suffix := types.OCIUncompressedLayer, "+"
	if f.Docker {
		base, suffix = types.DockerUncompressedLayer, "."
	}
	switch f.Compression {
	case "plain":
		return base
	case "zstd":
		return base + types.MediaType(suffix+"zstd")
	default:
		return base + types.MediaType(suffix+"gzip")
	}
}

func archive(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{
			Name: f.Name, Typeflag: f.Type, Mode: f.Mode, Uid: f.UID, Gid: f.GID,
			Size: int64(len(f.Data)), Linkname: f.Link, ModTime: time.Unix(1700000000, 0),
			Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		for k, v := range f.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write header of %q: %w", f.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("write %q: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("close archive: %w", err)
	}
	return buf.Bytes(), nil
}

func compress(kind string, plain []byte) ([]byte, error) {
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "plain":
		return plain, nil
	case "zstd":
		w, err = zstd.NewWriter(&buf)
	case "", "gzip":
		w, err = gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	default:
		err = fmt.Errorf("unknown compression %q", kind)
	}
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("compress layer: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("finish compression: %w", err)
	}
	return buf.Bytes(), nil
}
