package inject

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestArchive(t *testing.T) {
	data, err := archive([]File{{Path: "/run/secrets/key", Mode: 0o400, UID: 5, Content: []byte("hunter2")}})
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(data))
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil || string(content) != "hunter2" || h.Name != "run/secrets/key" || h.Mode != 0o400 || h.Uid != 5 {
		t.Errorf("got %q, %+v, %v", content, h, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("more follows: %v", err)
	}
}
