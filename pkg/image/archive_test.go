package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func TestSaveLoad(t *testing.T) {
	r := newPushRegistry(t)
	shared := gzipLayer(map[string]string{"shared": strings.Repeat("x", 10000)})
	one := r.fill("one", shared, zstdLayer(map[string]string{"a": "1"}))
	two := r.fill("two", shared, plainLayer(map[string]string{"b": "2"}), shared)
	for _, format := range []string{DockerArchive, OCIArchive} {
		for _, pack := range []string{"plain", "gzip", "zstd"} {
			t.Run(format+" "+pack, func(t *testing.T) {
				s := open(t, t.TempDir())
				pull(t, s, r.host()+"/one")
				pull(t, s, r.host()+"/two")
				var first, second bytes.Buffer
				refs := []string{r.host() + "/one", two.id, r.host() + "/one"}
				for _, w := range []*bytes.Buffer{&first, &second} {
					if err := s.Save(t.Context(), refs, format, w); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(first.Bytes(), second.Bytes()) {
					t.Error("two archives of the same images differ")
				}
				other := open(t, t.TempDir())
				statuses := map[string]int{}
				loaded, err := other.Load(t.Context(), bytes.NewReader(packed(t, pack, first.Bytes())), LoadOptions{OnProgress: func(p Progress) { statuses[p.Status]++ }})
				if err != nil || len(loaded) != 2 || loaded[0].ID != one.id || loaded[1].ID != two.id {
					t.Fatalf("Load = %+v, %v", loaded, err)
				}
				if len(loaded[0].Names) == 0 || loaded[0].Names[0] != r.host()+"/one:latest" || len(loaded[1].Names) != 0 {
					t.Errorf("names are %v", loaded)
				}
				if statuses["Loaded"] == 0 {
					t.Errorf("progress: %v", statuses)
				}
				if img, err := other.Resolve(r.host() + "/one"); err != nil || img.ID != one.id {
					t.Error(err)
				}
				for _, l := range loaded {
					if err := other.Remove(t.Context(), l.ID); err != nil {
						t.Fatal(err)
					}
				}
				checkEmpty(t, other)
			})
		}
	}
}

func packed(t *testing.T, how string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	switch how {
	case "gzip":
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		_ = w.Close()
	case "zstd":
		w, _ := zstd.NewWriter(&out)
		_, _ = w.Write(b)
		_ = w.Close()
	default:
		return b
	}
	return out.Bytes()
}

// TestSaveOCIKept saves with the manifest of the registry where the compressed
// layers are kept.
func TestSaveOCIKept(t *testing.T) {
	r := newPushRegistry(t)
	img := r.fill("one", gzipLayer(map[string]string{"a": "1"}))
	s := open(t, t.TempDir(), func(c *Config) { c.KeepCompressed = true })
	pull(t, s, r.host()+"/one")
	var b bytes.Buffer
	if err := s.Save(t.Context(), []string{img.id}, OCIArchive, &b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), blobName(img.Digest)) {
		t.Error("the archive does not have the manifest that was pulled")
	}
}

// TestSaveRefetched saves an image pulled before its tars could be made again.
func TestSaveRefetched(t *testing.T) {
	r := newPushRegistry(t)
	l := gzipLayer(map[string]string{"a": "1"})
	img := r.fill("one", l)
	s := open(t, t.TempDir())
	pull(t, s, r.host()+"/one")
	s.layers[l.diffID].tarSize = 0
	var b bytes.Buffer
	if err := s.Save(t.Context(), []string{img.id}, DockerArchive, &b); err != nil {
		t.Fatal(err)
	}
	if loaded, err := open(t, t.TempDir()).Load(t.Context(), &b, LoadOptions{}); err != nil || loaded[0].ID != img.id {
		t.Errorf("Load = %v, %v", loaded, err)
	}
	r.forget("one", l)
	if err := s.Save(t.Context(), []string{img.id}, DockerArchive, &b); !errdefs.IsNotFound(err) {
		t.Errorf("Save = %v, want not found", err)
	}
}

// archiveOf makes a docker archive; a content that is nil makes a symbolic link
// to the name behind the colon.
func archiveOf(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}
		if content == nil {
			h.Name, h.Linkname, _ = strings.Cut(name, ":")
			h.Typeflag = tar.TypeSymlink
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLoadHostile(t *testing.T) {
	layer := tarOf(t, [2]string{"a", "1"})
	config := configOf(t, digest.FromBytes(layer))
	manifest := func(item dockerItem) []byte {
		b, _ := json.Marshal([]dockerItem{item})
		return b
	}
	good := dockerItem{Config: "c.json", RepoTags: []string{"x:1"}, Layers: []string{"l/layer.tar"}}
	for name, files := range map[string]map[string][]byte{
		"empty":           {},
		"no config":       {"manifest.json": manifest(good), "l/layer.tar": layer},
		"no layer":        {"manifest.json": manifest(good), "c.json": config},
		"other layer":     {"manifest.json": manifest(good), "c.json": config, "l/layer.tar": tarOf(t, [2]string{"b", "2"})},
		"host file":       {"manifest.json": manifest(dockerItem{Config: "/etc/passwd", Layers: []string{"l"}}), "l": layer},
		"parent":          {"manifest.json": manifest(dockerItem{Config: "../../etc/passwd", Layers: []string{"l"}}), "l": layer},
		"link out":        {"manifest.json": manifest(good), "c.json:/etc/passwd": nil, "l/layer.tar": layer},
		"link loop":       {"manifest.json": manifest(good), "c.json:c.json": nil, "l/layer.tar": layer},
		"bad name":        {"manifest.json": manifest(dockerItem{Config: "c.json", RepoTags: []string{"UPPER/../x"}, Layers: good.Layers}), "c.json": config, "l/layer.tar": layer},
		"name of digest":  {"manifest.json": manifest(dockerItem{Config: "c.json", RepoTags: []string{"x@" + digest.FromString("x").String()}, Layers: good.Layers}), "c.json": config, "l/layer.tar": layer},
		"too few layers":  {"manifest.json": manifest(dockerItem{Config: "c.json"}), "c.json": config},
		"not json":        {"manifest.json": []byte("{")},
		"layer no tar":    {"manifest.json": manifest(good), "c.json": configOf(t, digest.FromString("nonsense")), "l/layer.tar": []byte("nonsense")},
		"escaping layer":  {"manifest.json": manifest(good), "c.json": configOf(t, digest.FromBytes(layer[:512])), "l/layer.tar": layer[:512]},
		"old docker":      {"repositories": []byte("{}")},
		"layout":          {"index.json": []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}`)},
		"layout, missing": {"index.json": []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"size":1}]}`, digest.FromString("x")))},
		"layout, wrong": {
			"index.json":                     []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"size":1}]}`, digest.FromString("x"))),
			blobName(digest.FromString("x")): []byte("y"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			loaded, err := s.Load(t.Context(), bytes.NewReader(archiveOf(t, files)), LoadOptions{})
			if !errdefs.IsInvalidArgument(err) || len(loaded) != 0 {
				t.Errorf("Load = %v, %v", loaded, err)
			}
			checkEmpty(t, s)
		})
	}
	s := open(t, t.TempDir())
	linked := map[string][]byte{"manifest.json": manifest(good), "c.json": config, "l/layer.tar:../m/layer.tar": nil, "m/layer.tar": layer}
	if _, err := s.Load(t.Context(), bytes.NewReader(archiveOf(t, linked)), LoadOptions{}); err != nil {
		t.Errorf("a layer behind a link: %v", err)
	}
	if _, err := s.Load(t.Context(), strings.NewReader("no archive at all"), LoadOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	layer := tarOf(f, [2]string{"a", "1"})
	item, _ := json.Marshal([]dockerItem{{Config: "c", Layers: []string{"l"}, RepoTags: []string{"x"}}})
	f.Add(archiveOf(f, map[string][]byte{"manifest.json": item, "c": configOf(f, digest.FromBytes(layer)), "l": layer}))
	f.Add(archiveOf(f, map[string][]byte{"index.json": []byte(`{"schemaVersion":2,"manifests":[]}`)}))
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(t.Context(), Config{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		s.config.Limits.MaxBytes = 1 << 20
		loaded, err := s.Load(t.Context(), bytes.NewReader(b), LoadOptions{})
		for _, l := range loaded {
			if err := s.Remove(t.Context(), l.ID); err != nil {
				t.Error(err)
			}
		}
		if entries, _ := os.ReadDir(s.path(dirStaging)); len(entries) > 0 {
			t.Errorf("left behind %v after %v", entries, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
