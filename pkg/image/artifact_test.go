package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// blobOf is one blob of an artifact; an empty title is none.
type blobOf struct{ title, content string }

// pushArtifact stores an artifact in a repository under tags.
func (f *fakeRegistry) pushArtifact(repo string, blobs []blobOf, tags ...string) ocispec.Descriptor {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.data.v1",
		Config:       ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: f.blob([]byte("{}")), Size: 2},
		Layers:       []ocispec.Descriptor{},
	}
	for _, b := range blobs {
		d := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: f.blob([]byte(b.content)), Size: int64(len(b.content))}
		if b.title != "" {
			d.Annotations = map[string]string{ocispec.AnnotationTitle: b.title}
		}
		m.Layers = append(m.Layers, d)
	}
	return f.manifest(ocispec.MediaTypeImageManifest, m, repo, tags...)
}

// mountVolume mounts an image for a container of a given rootfs.
func mountVolume(t *testing.T, s *Store, container, image string) string {
	t.Helper()
	target := t.TempDir()
	t.Cleanup(func() { unmount(t, target) })
	if err := s.MountVolume(t.Context(), container, Volume{ImageID: image, Target: target}); err != nil {
		t.Fatalf("mount volume: %v", err)
	}
	return target
}

func TestArtifact(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		big := noise(300_000, 1)
		desc := f.pushArtifact("data", []blobOf{{"model.bin", big}, {"dir/sub/a.txt", "a"}, {"", "nameless"}, {"dir/empty", ""}, {"again.txt", "a"}, {"", "nameless"}}, "v1")
		app := f.push("app", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"x": "x"})}, "latest")
		root := t.TempDir()
		s := open(t, root)
		s.legacyMount = legacy
		id := pull(t, s, f.host()+"/data:v1")
		pull(t, s, f.host()+"/app")
		check := func(s *Store) {
			t.Helper()
			img, err := s.Resolve(f.host() + "/data:v1")
			if err != nil {
				t.Fatal(err)
			}
			if img.ID != desc.Digest.String() || id != img.ID || img.Artifact == nil || img.Artifact.Type != "application/vnd.example.data.v1" || len(img.Artifact.Files) != 5 {
				t.Errorf("artifact is %+v %+v", img, img.Artifact)
			}
			if img.Size < 300_000 || img.Size > 310_000 || len(img.Tags) != 1 || len(img.Digests) != 1 {
				t.Errorf("size %d, names %v %v", img.Size, img.Tags, img.Digests)
			}
		}
		check(s)
		if err := s.PrepareRootfs(t.Context(), "c0", id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("rootfs of an artifact: %v", err)
		}
		if err := s.PrepareRootfs(t.Context(), "c1", app.id); err != nil {
			t.Fatal(err)
		}
		target := mountVolume(t, s, "c1", id)
		// Gone for all to see, but not while it is mounted; nor by a restart.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, root)
		check(s)
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if layerCount(t, root) != 5 { // 4 blobs and the layer of the image
			t.Errorf("%d layers", layerCount(t, root))
		}
		nameless := digest.FromString("nameless").String()
		for name, want := range map[string]string{"model.bin": big, "dir/sub/a.txt": "a", "dir/empty": "", "again.txt": "a", nameless: "nameless"} {
			if got := readFile(t, target, name); got != want {
				t.Errorf("%s has %d bytes, want %d", name, len(got), len(want))
			}
		}
		if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); err == nil {
			t.Error("the volume can be written")
		}
		unmount(t, target)
		if err := s.RemoveRootfs(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		if layerCount(t, root) != 1 {
			t.Errorf("%d layers left", layerCount(t, root))
		}
	})
}

// TestArtifactResumed: a blob that comes in pieces is as good as one that comes
// at once.
func TestArtifactResumed(t *testing.T) {
	f := newFakeRegistry(t)
	big := noise(400_000, 7)
	f.pushArtifact("data", []blobOf{{"big", big}}, "latest")
	f.onRequest(cutOnce(f, []byte(big)))
	root := t.TempDir()
	s := open(t, root)
	img, err := s.Resolve(pull(t, s, f.host()+"/data"))
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, s.layerDir(blobLayer(img.Artifact.Files[0].Digest)), layerDiff, artifactBlob); got != big {
		t.Errorf("%d bytes, want %d", len(got), len(big))
	}
	if f.count(digest.FromString(big).String(), "bytes=") == 0 {
		t.Error("nothing was asked for by range")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, root, 0)
}

// TestArtifactCannotBringLayers: the bytes of a plain tar are the name of the
// layer they unpack to.
func TestArtifactCannotBringLayers(t *testing.T) {
	f := newFakeRegistry(t)
	l := plainLayer(map[string]string{"a": "1"})
	f.pushArtifact("evil", []blobOf{{"a", string(l.blob)}}, "latest")
	img := f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	s := open(t, t.TempDir())
	pull(t, s, f.host()+"/evil")
	pull(t, s, f.host()+"/app")
	if got := readFile(t, s.layerDir(img.layers[0].diffID), layerDiff, "a"); got != "1" {
		t.Errorf("layer has %q", got)
	}
}

func TestHostileArtifacts(t *testing.T) {
	f := newFakeRegistry(t)
	long := strings.Repeat("a", maxTitlePart+1)
	cases := map[string][]blobOf{}
	for i, title := range []string{
		"../up", "/etc/passwd", "a/../../b", "a//b", "./a", "a/", "..", ".", "a/./b", "a\x00b", "a\nb", long,
		strings.Repeat("a/", maxTitleDepth) + "a", strings.Repeat("aaaaaaaaa/", 110) + "a",
	} {
		cases[fmt.Sprintf("title%d", i)] = []blobOf{{title, "x"}}
	}
	cases["twice"] = []blobOf{{"a", "1"}, {"a", "2"}}
	cases["same-twice"] = []blobOf{{"a", "1"}, {"a", "1"}}
	cases["below-a-file"] = []blobOf{{"a/b/c", "1"}, {"a/b", "2"}}
	cases["digest-as-title"] = []blobOf{{"", "1"}, {digest.FromString("1").String(), "2"}}
	cases["many"] = make([]blobOf, maxArtifactFiles+1)
	for i := range cases["many"] {
		cases["many"][i] = blobOf{fmt.Sprint(i), "x"}
	}
	for tag, blobs := range cases {
		f.pushArtifact("bad", blobs, tag)
	}
	good := f.pushArtifact("bad", []blobOf{{"a", "12345"}}, "good")
	body := string(f.manifests["bad/good"].body)
	for tag, change := range map[string][2]string{
		"smaller":  {`"size":5`, `"size":4`},
		"bigger":   {`"size":5`, `"size":6`},
		"negative": {`"size":5`, `"size":-5`},
		"huge":     {`"size":5`, `"size":1099511627776`},
		"md5":      {`"digest":"sha256:`, `"digest":"md5:`},
		"path":     {`"digest":"sha256:`, `"digest":"sha256:../../`},
		"two-sizes": {`"layers":[`, `"layers":[{"mediaType":"a","digest":"` + digest.FromString("12345").String() +
			`","size":4,"annotations":{"org.opencontainers.image.title":"b"}},`},
		"bad-empty-title": {`title":"a"`, `title":""`},
	} {
		changed := strings.ReplaceAll(body, change[0], change[1])
		if changed == body {
			t.Fatalf("%s changes nothing", tag)
		}
		f.manifest(ocispec.MediaTypeImageManifest, []byte(changed), "bad", tag)
		cases[tag] = nil
	}
	wrong := f.pushArtifact("bad", []blobOf{{"a", "right"}}, "lying")
	_ = wrong
	f.blobs[digest.FromString("right")] = []byte("wrong")
	cases["lying"] = nil
	root := t.TempDir()
	s := open(t, root)
	for tag := range cases {
		if _, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/bad:" + tag}); err == nil {
			t.Errorf("%s was accepted", tag)
		}
	}
	if len(s.List()) != 0 || layerCount(t, root) != 0 {
		t.Errorf("%d images and %d layers left", len(s.List()), layerCount(t, root))
	}
	if id := pull(t, s, f.host()+"/bad:good"); id != good.Digest.String() {
		t.Errorf("good artifact is %s", id)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, root, 0)
}

func TestImageVolume(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		img := f.push("app", ocispec.Image{}, rootfsLayers(), "latest")
		none := f.push("none", ocispec.Image{}, nil, "latest")
		root := t.TempDir()
		s := open(t, root)
		s.legacyMount = legacy
		pull(t, s, f.host()+"/app")
		pull(t, s, f.host()+"/none")
		if err := s.PrepareRootfs(t.Context(), "c", none.id); err != nil {
			t.Fatal(err)
		}
		target := mountVolume(t, s, "c", img.id)
		second := mountVolume(t, s, "c", img.id)
		if entries, err := os.ReadDir(mountVolume(t, s, "c", none.id)); err != nil || len(entries) != 0 {
			t.Errorf("image without layers: %v, %v", entries, err)
		}
		if err := s.Remove(t.Context(), img.id); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{target, second} {
			if readFile(t, dir, "etc/a") != "high" || readFile(t, dir, "dir/new") != "y" {
				t.Error("content is not that of the image")
			}
		}
		if err := s.MountVolume(t.Context(), "c", Volume{ImageID: img.id, Target: target}); !errdefs.IsNotFound(err) {
			t.Errorf("volume of an image that is gone: %v", err)
		}
		if err := s.MountVolume(t.Context(), "other", Volume{ImageID: none.id, Target: target}); !errdefs.IsNotFound(err) {
			t.Errorf("volume for nobody: %v", err)
		}
		unmount(t, target)
		unmount(t, second)
		if err := s.RemoveRootfs(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		if layerCount(t, root) != 0 {
			t.Errorf("%d layers left", layerCount(t, root))
		}
	})
}

func TestVolumePath(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{"abs": "/etc", "up": "../../../../../../etc", "in": "etc/sub", "loop": "loop", "file": "etc/passwd"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "etc/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"etc": "etc", "abs": "etc", "up": "etc", "in": "etc/sub", "file": "etc/passwd", "abs/passwd": "etc/passwd", "etc/../../..": "", "loop": "!", "missing": "!", "etc/passwd/x": "!"} {
		got, err := VolumePath(dir, path)
		if want == "!" {
			if err == nil {
				t.Errorf("%s is %s", path, got)
			}
			continue
		}
		if err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s is %s, %v", path, got, err)
		}
	}
}

func FuzzArtifactManifest(f *testing.F) {
	seed, _ := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: ocispec.Descriptor{MediaType: "x"}})
	f.Add(seed)
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"annotations":{"org.opencontainers.image.title":"a/b"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := parseDocument("", b)
		if err != nil || doc.artifact == nil {
			return
		}
		seen := map[string]bool{}
		for _, file := range doc.artifact.Files {
			if seen[file.Name] || !filepath.IsLocal(file.Name) || filepath.Clean(file.Name) != file.Name || file.Size < 0 {
				t.Errorf("accepted %q twice or at all", file.Name)
			}
			seen[file.Name] = true
		}
	})
}

func unmount(t *testing.T, target string) {
	t.Helper()
	if err := linux.Unmount(target); err != nil {
		t.Error(err)
	}
}
