package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// programLayer is a layer whose content compresses about as programs do, to
// half of its size, in files of fileSize.
func programLayer(b *testing.B, size, fileSize int, seed uint32) fakeLayer {
	b.Helper()
	random, text := noise(1<<20, seed), noise(256, seed+1)
	content := make([]byte, 0, fileSize)
	for i := 0; len(content) < fileSize; i++ {
		at := i * 512 % len(random)
		content = append(append(content, random[at:at+256]...), text...)
	}
	var buf bytes.Buffer
	hash := digest.SHA256.Hash()
	z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		b.Fatal(err)
	}
	w := tar.NewWriter(writers{z, hash})
	for i := range size / fileSize {
		copy(content, fmt.Sprint(seed, " ", i))
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/%d/%d", i/100, i), Mode: 0o644, Size: int64(fileSize)}
		if err := w.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(content[:fileSize]); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	return fakeLayer{blob: buf.Bytes(), mediaType: ocispec.MediaTypeImageLayerGzip, diffID: digest.NewDigest(digest.SHA256, hash)}
}

type writers []interface{ Write(p []byte) (int, error) }

func (ws writers) Write(p []byte) (int, error) {
	for _, w := range ws {
		if _, err := w.Write(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// BenchmarkPull pulls from a registry on the same machine into a new store.
// MB/s are those of the compressed bytes.
func BenchmarkPull(b *testing.B) {
	for name, make := range map[string]func(b *testing.B) []fakeLayer{
		"one 300 MB layer": func(b *testing.B) []fakeLayer {
			return []fakeLayer{programLayer(b, 590<<20, 256<<10, 1)}
		},
		"20 layers of 5 MB": func(b *testing.B) []fakeLayer {
			var layers []fakeLayer
			for i := range 20 {
				layers = append(layers, programLayer(b, 10<<20, 16<<10, uint32(i)))
			}
			return layers
		},
	} {
		b.Run(name, func(b *testing.B) {
			f := newFakeRegistry(b)
			layers, size := make(b), 0
			for _, l := range layers {
				size += len(l.blob)
			}
			f.push("app", ocispec.Image{}, layers, "latest")
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				s := open(b, b.TempDir())
				b.StartTimer()
				pull(b, s, f.host()+"/app")
				b.StopTimer()
				if err := s.Remove(b.Context(), f.host()+"/app"); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
