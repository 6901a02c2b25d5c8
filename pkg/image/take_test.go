package image

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

// makeLayer makes a layer through a rootfs on others.
func makeLayer(t *testing.T, s *Store, hold string, below []digest.Digest, clamp time.Time, change func(dir string)) digest.Digest {
	t.Helper()
	id, release, err := s.Stack(below, ocispec.Image{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	rootfs, target := "work-"+hold, t.TempDir()
	if err := s.PrepareRootfs(t.Context(), rootfs, id); err != nil {
		t.Fatal(err)
	}
	if err := s.MountRootfs(t.Context(), rootfs, target, RootfsOptions{}); err != nil {
		t.Fatal(err)
	}
	change(target)
	n, err := s.TakeUpper(t.Context(), rootfs, clamp)
	if err != nil {
		t.Fatal(err)
	}
	var made digest.Digest
	if n != nil {
		made = n.DiffID
		defer n.Release()
		below = append(slices.Clip(below), n.DiffID)
	}
	if err := s.Hold(t.Context(), hold, below); err != nil {
		t.Fatal(err)
	}
	if err := s.UnmountRootfs(t.Context(), rootfs, target); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveRootfs(t.Context(), rootfs); err != nil {
		t.Fatal(err)
	}
	return made
}

func TestTakeUpper(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	root := filepath.Join(t.TempDir(), "image")
	s, err := Open(t.Context(), Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) func(string) {
		return func(dir string) {
			p := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	clamp := time.Unix(1, 0)
	one := makeLayer(t, s, "one", nil, clamp, write("app/a", "1"))
	again := makeLayer(t, s, "again", nil, clamp, write("app/a", "1"))
	if one != again || one == "" {
		t.Errorf("two layers with one content: %v and %v", one, again)
	}
	two := makeLayer(t, s, "two", []digest.Digest{one}, clamp, write("app/b", "2"))
	empty := makeLayer(t, s, "empty", []digest.Digest{one, two}, clamp, func(string) {})
	if empty != "" {
		t.Errorf("a layer without a change is %v", empty)
	}
	// A layer made on nothing goes on top of others: it must hide nothing.
	other := makeLayer(t, s, "other", nil, clamp, write("app/c", "3"))
	makeLayer(t, s, "stack", []digest.Digest{one, two, other}, clamp, func(dir string) {
		for _, name := range []string{"a", "b", "c"} {
			if _, err := os.Stat(filepath.Join(dir, "app", name)); err != nil {
				t.Error(err)
			}
		}
	})
	// Holds survive the daemon; what nobody holds does not.
	if err := s.Release(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), "stack"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(t.Context(), Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Stack([]digest.Digest{other}, ocispec.Image{}); err == nil {
		t.Error("a layer without a hold is still there")
	}
	id, release, err := s.Stack([]digest.Digest{two}, ocispec.Image{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(id); err != nil || len(s.List()) != 0 {
		t.Errorf("stack: %v, list: %v", err, s.List())
	}
	release()
	if _, err := s.Resolve(id); err == nil {
		t.Error("a released stack is still there")
	}
}

// What a rootfs stands on may be gone, and so may the rootfs: nobody may be left
// with the store's lock.
func TestTakeUpperWithoutLayers(t *testing.T) {
	f, root := newFakeRegistry(t), t.TempDir()
	f.push("app", ocispec.Image{}, manyLayers(2), "latest")
	s, err := Open(t.Context(), Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	id := pull(t, s, f.host()+"/app")
	if err := s.PrepareRootfs(t.Context(), "c", id); err != nil {
		t.Fatal(err)
	}
	layers, err := s.RootfsLayers("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, dirLayers, layers[0].Encoded())); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	mustFail := func(what string, f func() error) {
		t.Helper()
		defer func() {
			if p := recover(); p != nil {
				t.Errorf("%s panicked: %v", what, p)
			}
			if !s.mu.TryLock() {
				t.Fatalf("%s left the store locked", what)
			}
			s.mu.Unlock()
		}()
		if f() == nil {
			t.Errorf("%s is a success", what)
		}
	}
	mustFail("take", func() error { _, err := s.TakeUpper(t.Context(), "c", time.Time{}); return err })
	mustFail("commit", func() error { _, err := s.CommitRootfs(t.Context(), "c", layer.ExportOptions{}); return err })
	mustFail("give", func() error { return s.giveUpper(t.Context(), "gone", t.TempDir(), nil) })
}

// A stack has an id, but there is no image to remove.
func TestRemoveStack(t *testing.T) {
	s := open(t, t.TempDir())
	id, release, err := s.Stack(nil, ocispec.Image{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := s.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := s.Resolve(id); err != nil {
		t.Errorf("the stack is gone: %v", err)
	}
}
