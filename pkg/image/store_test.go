package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestRemoveFreesTheDisk: kubelet asks how full the disk is as soon as an image is
// removed, and evicts a pod where that is not enough.
func TestRemoveFreesTheDisk(t *testing.T) {
	f := newFakeRegistry(t)
	files := map[string]string{}
	for i := range 2000 {
		files[fmt.Sprintf("%d/file", i)] = "x"
	}
	a := f.push("a", ocispec.Image{}, []fakeLayer{gzipLayer(files)}, "latest")
	s := open(t, t.TempDir())
	pull(t, s, f.host()+"/a")
	if err := s.Remove(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.path(dirTrash)); err != nil || len(left) > 0 {
		t.Errorf("in the trash there are %v, %v", left, err)
	}
}

func TestRemove(t *testing.T) {
	f := newFakeRegistry(t)
	shared, own := gzipLayer(map[string]string{"s": "s"}), gzipLayer(map[string]string{"o": "o"})
	a := f.push("a", ocispec.Image{Author: "a"}, []fakeLayer{shared, own}, "latest", "v1")
	f.push("b", ocispec.Image{Author: "b"}, []fakeLayer{shared}, "latest")
	root := t.TempDir()
	s := open(t, root)
	pull(t, s, f.host()+"/a")
	pull(t, s, f.host()+"/a:v1")
	b := pull(t, s, f.host()+"/b")
	for _, ref := range []string{"sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 64), "nobody/knows:this"} {
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Errorf("remove unknown %s: %v", ref, err)
		}
	}
	if err := s.Remove(t.Context(), "NOT A NAME"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("remove malformed: %v", err)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := s.Remove(t.Context(), f.host()+"/a:v1"); err != nil {
				t.Error(err)
			}
			for _, ref := range []string{a.id, f.host() + "/a", f.host() + "/a:v1"} {
				if _, err := s.Resolve(ref); !errdefs.IsNotFound(err) {
					t.Errorf("%s is still there: %v", ref, err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.List(); len(got) != 1 || got[0].ID != b {
		t.Errorf("left: %v", got)
	}
	if layerCount(t, root) != 1 {
		t.Errorf("%d layers left, want the shared one", layerCount(t, root))
	}
	if err := s.Remove(t.Context(), b[:20]); err != nil {
		t.Fatal(err)
	}
	blobs, err := os.ReadDir(s.path(dirBlobs, "sha256"))
	if err != nil || len(blobs) != 0 || layerCount(t, root) != 0 {
		t.Errorf("left: blobs %v, %d layers, %v", blobs, layerCount(t, root), err)
	}
	if u, err := s.Usage(); err != nil || u.UsedBytes != 0 || u.InodesUsed != 0 || u.Mountpoint != root {
		t.Errorf("usage of nothing: %+v %v", u, err)
	}
}

func TestCrashStates(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"a": "1"})
	img := f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	whole := f.push("whole", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"b": "2"})}, "latest")
	hex := digest.Digest(img.id).Encoded()
	layer := filepath.Join(dirLayers, l.diffID.Encoded())
	for name, damage := range map[string]func(path func(...string) string) error{
		"config gone":      func(p func(...string) string) error { return os.Remove(p(dirBlobs, "sha256", hex)) },
		"config truncated": func(p func(...string) string) error { return os.Truncate(p(dirBlobs, "sha256", hex), 0) },
		"manifest truncated": func(p func(...string) string) error {
			return os.Truncate(p(dirBlobs, "sha256", img.Digest.Encoded()), 10)
		},
		"layer gone":             func(p func(...string) string) error { return os.RemoveAll(p(layer)) },
		"layer without record":   func(p func(...string) string) error { return os.Remove(p(layer, layerRecord)) },
		"layer record truncated": func(p func(...string) string) error { return os.Truncate(p(layer, layerRecord), 5) },
		"layer without files":    func(p func(...string) string) error { return os.RemoveAll(p(layer, layerDiff)) },
		"image record truncated": func(p func(...string) string) error { return os.Truncate(p(dirImages, hex+".json"), 30) },
		"image record empty":     func(p func(...string) string) error { return os.Truncate(p(dirImages, hex+".json"), 0) },
		"image record gone":      func(p func(...string) string) error { return os.Remove(p(dirImages, hex+".json")) },
		"image record misplaced": func(p func(...string) string) error {
			return os.Rename(p(dirImages, hex+".json"), p(dirImages, strings.Repeat("0", 64)+".json"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root)
			pull(t, s, f.host()+"/app")
			pull(t, s, f.host()+"/whole")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := damage(s.path); err != nil {
				t.Fatal(err)
			}
			// Leftovers of a crash, everywhere.
			for _, dir := range []string{dirStaging + "/123/diff/x", dirTrash + "/1/2", dirLayers + "/nonsense/diff", dirRootfs + "/half/upper"} {
				if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{dirBlobs + "/sha256/unknown", dirImages + "/.x.json" + ".tmp-1", dirPartial + "/old", dirPartial + "/new"} {
				if err := os.WriteFile(s.path(file), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			old := time.Now().Add(-2 * partialLife)
			if err := os.Chtimes(s.path(dirPartial, "old"), old, old); err != nil {
				t.Fatal(err)
			}
			s = open(t, root)
			if got := s.List(); len(got) != 1 || got[0].ID != whole.id {
				t.Errorf("images after the crash: %v", got)
			}
			if got := s.ListRootfs(); len(got) != 0 {
				t.Errorf("rootfs after the crash: %v", got)
			}
			checkClean(t, root, 1)
			if layerCount(t, root) != 1 {
				t.Errorf("%d layers, want 1", layerCount(t, root))
			}
			if id := pull(t, s, f.host()+"/app"); id != img.id {
				t.Errorf("pulled %s", id)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s = open(t, root); len(s.List()) != 2 {
				t.Errorf("not healed: %v", s.List())
			}
		})
	}
}

func TestOpenIsExclusive(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	if _, err := Open(t.Context(), Config{Root: root}); err == nil {
		t.Fatal("opened twice")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: "x"}); !errdefs.IsUnavailable(err) {
		t.Errorf("pull into a closed store: %v", err)
	}
	if _, err := Open(t.Context(), Config{Root: "relative"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative root: %v", err)
	}
}

func TestTwoOwnersOfAName(t *testing.T) {
	f := newFakeRegistry(t)
	root := t.TempDir()
	s := open(t, root)
	f.push("app", ocispec.Image{Author: "1"}, nil, "latest")
	first := pull(t, s, f.host()+"/app")
	record := readFile(t, s.recordPath(digest.Digest(first)))
	f.push("app", ocispec.Image{Author: "2"}, nil, "latest")
	second := pull(t, s, f.host()+"/app")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// As if the crash came before the old image lost the name.
	if err := os.WriteFile(s.recordPath(digest.Digest(first)), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	if img, err := s.Resolve(f.host() + "/app"); err != nil || img.ID != second {
		t.Errorf("name belongs to %v, %v", img, err)
	}
	if img, err := s.Resolve(first); err != nil || len(img.Tags) != 0 {
		t.Errorf("old image: %+v, %v", img, err)
	}
}

func TestUsersAndPins(t *testing.T) {
	f := newFakeRegistry(t)
	for user, want := range map[string]struct {
		uid  int64
		name string
	}{
		"1002": {uid: 1002}, "1003:5": {uid: 1003}, "0": {uid: 0}, "": {-1, ""}, "www-data": {-1, "www-data"}, "www-data:x": {-1, "www-data"},
		"-1": {-1, "-1"}, "+1": {-1, "+1"}, "4294967295": {-1, "4294967295"}, "99999999999999999999": {-1, "99999999999999999999"}, "0x10": {-1, "0x10"},
	} {
		uid, name := parseUser(user)
		if name != want.name || (uid == nil) != (want.uid < 0) || uid != nil && *uid != want.uid {
			t.Errorf("user %q: %v %q", user, uid, name)
		}
	}
	f.push("pause", ocispec.Image{}, nil, "1")
	for pattern, want := range map[string]bool{"*/pause:*": true, "*pause*": true, f.host() + "/pause:1": true, f.host() + "/*": true, "pause": false, "*": true, "*x": false, "busybox": false, "": false} {
		s := open(t, t.TempDir(), func(c *Config) { c.PinnedImages = []string{pattern} })
		id := pull(t, s, f.host()+"/pause:1")
		if img, err := s.Resolve(id); err != nil || img.Pinned != want {
			t.Errorf("pattern %q: %v %v", pattern, img, err)
		}
		if err := s.Remove(t.Context(), id); err != nil || len(s.List()) != 0 {
			t.Errorf("a pinned image cannot be removed: %v", err)
		}
	}
}
