package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

// tarOf packs files, and directories whose name ends with a slash.
func tarOf(t testing.TB, files ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1])), Typeflag: tar.TypeReg}
		if f[0][len(f[0])-1] == '/' {
			h.Typeflag, h.Mode = tar.TypeDir, 0o1777
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func configOf(t testing.TB, layers ...digest.Digest) []byte {
	t.Helper()
	c := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: layers}}
	c.OS, c.Architecture = "linux", "amd64"
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAddLayerRegister(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	lowTar := tarOf(t, [2]string{"tmp/", ""}, [2]string{"etc/name", "low"})
	low, err := s.AddLayer(t.Context(), bytes.NewReader(lowTar), nil)
	if err != nil || low.DiffID != digest.FromBytes(lowTar) {
		t.Fatalf("AddLayer = %+v, %v", low, err)
	}
	high, err := s.AddLayer(t.Context(), bytes.NewBuffer(tarOf(t, [2]string{"tmp/x", "1"})), []digest.Digest{low.DiffID})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(s.layerDir(high.DiffID), layerDiff, "tmp"))
	if err != nil || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("directory of the parent is not inherited: %v, %v", info, err)
	}
	config := configOf(t, low.DiffID, high.DiffID)
	img, err := s.Register(t.Context(), config, "one", "example.com/two:v1")
	if err != nil || img.ID != digest.FromBytes(config).String() || len(img.Tags) != 2 {
		t.Fatalf("Register = %+v, %v", img, err)
	}
	low.Release()
	high.Release()
	high.Release()
	var out bytes.Buffer
	if err := s.writeTar(t.Context(), low.DiffID, &out); err != nil || !bytes.Equal(out.Bytes(), lowTar) {
		t.Errorf("writeTar: %d bytes, %v", out.Len(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	if _, err := s.Resolve("example.com/two:v1"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	checkEmpty(t, s)
}

func TestAddLayerReplacedFile(t *testing.T) {
	twice := tarOf(t, [2]string{"a", "first"}, [2]string{"a", "second"})
	s := open(t, t.TempDir())
	whole, err := s.AddLayer(t.Context(), bytes.NewReader(twice), nil)
	if err != nil || whole.DiffID != digest.FromBytes(twice) {
		t.Fatalf("AddLayer = %+v, %v", whole, err)
	}
	var out bytes.Buffer
	if err := s.writeTar(t.Context(), whole.DiffID, &out); err != nil || !bytes.Equal(out.Bytes(), twice) {
		t.Errorf("writeTar: %d bytes, %v", out.Len(), err)
	}
	packed, err := s.AddLayer(t.Context(), bytes.NewBuffer(twice), nil)
	if err != nil || packed.DiffID == whole.DiffID {
		t.Fatalf("AddLayer of a stream = %+v, %v", packed, err)
	}
	out.Reset()
	if err := s.writeTar(t.Context(), packed.DiffID, &out); err != nil || digest.FromBytes(out.Bytes()) != packed.DiffID {
		t.Errorf("writeTar: %d bytes, %v", out.Len(), err)
	}
	whole.Release()
	packed.Release()
	checkEmpty(t, s)
}

func TestRegisterWithoutLayer(t *testing.T) {
	s := open(t, t.TempDir())
	if _, err := s.Register(t.Context(), configOf(t, digest.FromString("none")), "x"); !errdefs.IsNotFound(err) {
		t.Errorf("Register = %v, want not found", err)
	}
	for name, config := range map[string]string{"json": "{", "layers": `{"rootfs":{"type":"layers","diff_ids":["../x"]}}`} {
		if _, err := s.Register(t.Context(), []byte(config)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: Register = %v, want invalid argument", name, err)
		}
	}
	if _, err := s.Register(t.Context(), configOf(t), "x@"+digest.FromString("x").String()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Register with a digest = %v", err)
	}
	checkEmpty(t, s)
}

func TestViewAndCommit(t *testing.T) {
	s := open(t, t.TempDir())
	l, err := s.AddLayer(t.Context(), bytes.NewReader(tarOf(t, [2]string{"etc/", ""}, [2]string{"etc/a", "1"})), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	v, err := s.View(t.Context(), []digest.Digest{l.DiffID})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(v.Path, "etc/a")); err != nil || string(b) != "1" {
		t.Errorf("view has %q, %v", b, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	id, release, err := s.Stack([]digest.Digest{l.DiffID}, ocispec.Image{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := s.PrepareRootfs(t.Context(), "step", id); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	if err := s.MountRootfs(t.Context(), "step", target, RootfsOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, "etc/b"), []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.UnmountRootfs(t.Context(), "step", target); err != nil {
		t.Fatal(err)
	}
	made, err := s.CommitRootfs(t.Context(), "step", layer.ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveRootfs(t.Context(), "step"); err != nil {
		t.Fatal(err)
	}
	if v, err = s.View(t.Context(), []digest.Digest{l.DiffID, made.DiffID}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(v.Path, "etc/b")); err != nil || string(b) != "2" {
		t.Errorf("view has %q, %v", b, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	made.Release()
	l.Release()
	release()
	checkEmpty(t, s)
}

// checkEmpty waits until nothing of any layer or image is left.
func checkEmpty(t *testing.T, s *Store) {
	t.Helper()
	for _, dir := range []string{dirBlobs + "/sha256", dirImages, dirLayers, dirRootfs, dirStaging, dirPartial, dirTrash, dirBroken, dirHolds, dirViews} {
		eventually(t, dir+" to be empty", func() bool {
			entries, err := os.ReadDir(s.path(dir))
			return err == nil && len(entries) == 0
		})
	}
	if u, err := s.Usage(); err != nil || u.UsedBytes != 0 || u.InodesUsed != 0 {
		t.Errorf("Usage = %+v, %v", u, err)
	}
}
