package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

// packAs writes entries to a tar; data of regular files comes with them.
func packAs(t *testing.T, format tar.Format, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		data := []byte(h.Uname)
		h.Uname = ""
		h.Format, h.Size = format, int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// again unpacks a tar and assembles it.
func again(t *testing.T, in []byte) ([]byte, Result, error) {
	t.Helper()
	dir := t.TempDir()
	var recipe, out bytes.Buffer
	result, err := Apply(t.Context(), bytes.NewReader(in), dir, Options{Recipe: &recipe})
	if err != nil {
		t.Fatal(err)
	}
	err = Assemble(t.Context(), dir, &recipe, &out)
	return out.Bytes(), result, err
}

func TestAssemble(t *testing.T) {
	long := string(bytes.Repeat([]byte("long/"), 40)) + "name"
	plain := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "d/file", Mode: 0o4711, Uid: 7, Uname: "content of d/file"},
		{Typeflag: tar.TypeReg, Name: "./d/../d//other", Mode: 0o600, Uname: string(make([]byte, 70000))},
		{Typeflag: tar.TypeReg, Name: "empty", Mode: 0o600},
		{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "d"},
		{Typeflag: tar.TypeReg, Name: "link/through", Mode: 0o600, Uname: "through a link"},
		{Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/file"},
		{Typeflag: tar.TypeReg, Name: "d/.wh.gone", Uname: "not empty"},
		{Typeflag: tar.TypeReg, Name: "missing/parent", Mode: 0o600, Uname: "x"},
	}
	for name, in := range map[string][]byte{
		"ustar":   packAs(t, tar.FormatUSTAR, plain...),
		"pax":     packAs(t, tar.FormatPAX, append(plain, &tar.Header{Typeflag: tar.TypeReg, Name: long, Uname: "deep"})...),
		"gnu":     packAs(t, tar.FormatGNU, append(plain, &tar.Header{Typeflag: tar.TypeReg, Name: long, Uname: "deep"})...),
		"trailer": append(packAs(t, tar.FormatUSTAR, plain[:2]...), make([]byte, 9*512)...),
		"nothing": packAs(t, tar.FormatUSTAR),
		"no end":  packAs(t, tar.FormatUSTAR, plain[0])[:512],
	} {
		t.Run(name, func(t *testing.T) {
			out, result, err := again(t, in)
			if err != nil || result.Inexact || !bytes.Equal(in, out) {
				t.Errorf("got %d bytes of %d, inexact %v, %v", len(out), len(in), result.Inexact, err)
			}
		})
	}
}

func TestAssembleReplaced(t *testing.T) {
	_, result, _ := again(t, packAs(t, tar.FormatUSTAR,
		&tar.Header{Typeflag: tar.TypeReg, Name: "a", Uname: "first"},
		&tar.Header{Typeflag: tar.TypeReg, Name: "a", Uname: "second"}))
	if !result.Inexact {
		t.Error("a recipe whose data is gone is taken for exact")
	}
}

func TestAssembleChanged(t *testing.T) {
	for name, recipe := range map[string]string{
		"escape":   "F\x01\x0d../etc/passwd",
		"absolute": "F\x01\x0b/etc/passwd",
		"missing":  "F\x01\x01x",
		"no name":  "F\x01\x00",
		"cut":      "R\x05abc",
		"kind":     "X\x00",
		"huge":     "R\xff\xff\xff\xff\x0f",
	} {
		t.Run(name, func(t *testing.T) {
			err := Assemble(t.Context(), t.TempDir(), bytes.NewReader([]byte(recipe)), &bytes.Buffer{})
			if !errdefs.IsDataLoss(err) {
				t.Errorf("Assemble = %v, want data loss", err)
			}
		})
	}
}

func TestAssembleCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Assemble(ctx, t.TempDir(), bytes.NewReader(nil), &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
