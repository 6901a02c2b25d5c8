package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/diskusage"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// bothWays runs a test with the kernel's new and old way to mount.
func bothWays(t *testing.T, test func(t *testing.T, legacy bool)) {
	requireRoot(t)
	t.Run("fsconfig", func(t *testing.T) { test(t, false) })
	t.Run("mount", func(t *testing.T) { test(t, true) })
}

func rootfsLayers() []fakeLayer {
	layers := []fakeLayer{
		gzipLayer(map[string]string{"etc/": "", "etc/a": "low", "etc/b": "low", "gone": "x", "dir/": "", "dir/hidden": "x"}),
		gzipLayer(map[string]string{"etc/a": "high", ".wh.gone": "", "dir/": "", "dir/.wh..wh..opq": "", "dir/new": "y"}),
	}
	return append(layers, layers...)
}

func TestRootfs(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		layers := rootfsLayers()
		img := f.push("app", ocispec.Image{}, layers, "latest")
		s := open(t, t.TempDir())
		s.legacyMount = legacy
		pull(t, s, f.host()+"/app")
		target := mountRootfs(t, s, "c1", img.id, RootfsOptions{})
		if readFile(t, target, "etc/a") != "high" || readFile(t, target, "etc/b") != "low" || readFile(t, target, "dir/new") != "y" {
			t.Error("wrong contents")
		}
		for _, gone := range []string{"gone", "dir/hidden"} {
			if _, err := os.Stat(filepath.Join(target, gone)); err == nil {
				t.Errorf("%s is still there", gone)
			}
		}
		if err := os.WriteFile(filepath.Join(target, "etc/b"), []byte(strings.Repeat("x", 10000)), 0o644); err != nil {
			t.Fatal(err)
		}
		waitUsage(t, s, "c1", target, func(u diskusage.Usage) bool { return u.Bytes >= 10000 && u.Inodes >= 2 })
		if readFile(t, s.layerDir(layers[0].diffID), layerDiff, "etc/b") != "low" {
			t.Error("layer was changed")
		}
		for range 2 {
			if err := s.PrepareRootfs(t.Context(), "c1", img.id); err != nil {
				t.Errorf("prepare again: %v", err)
			}
			if err := s.MountRootfs(t.Context(), "c1", target, RootfsOptions{}); err != nil {
				t.Errorf("mount again: %v", err)
			}
		}
		if points, err := linux.MountPoints(target); err != nil || len(points) != 1 {
			t.Errorf("mounted as %v, %v", points, err)
		}
		entries, err := os.ReadDir(s.rootfsDir("c1"))
		if err != nil || len(entries) != 3 {
			t.Errorf("rootfs directory holds %v, %v", entries, err)
		}
	})
}

func TestRootfsOfNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		none := f.push("scratch", ocispec.Image{}, nil, "latest")
		s := open(t, t.TempDir())
		s.legacyMount = legacy
		pull(t, s, f.host()+"/scratch")
		empty := mountRootfs(t, s, "c2", none.id, RootfsOptions{})
		if info, err := os.Stat(empty); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("root of an empty image: %v %v", info.Mode(), err)
		}
		if err := os.WriteFile(filepath.Join(empty, "x"), nil, 0o644); err != nil {
			t.Error(err)
		}
		ro := mountRootfs(t, s, "c3", none.id, RootfsOptions{ReadOnly: true})
		if err := os.WriteFile(filepath.Join(ro, "x"), nil, 0o644); err == nil {
			t.Error("wrote to a read-only mount")
		}
	})
}

// TestRootfsSurvives takes away what a rootfs could do without: its image, the
// daemon, its mount.
func TestRootfsSurvives(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		img := f.push("app", ocispec.Image{}, rootfsLayers(), "latest")
		root := t.TempDir()
		s := open(t, root)
		pull(t, s, f.host()+"/app")
		target := mountRootfs(t, s, "c1", img.id, RootfsOptions{})
		if err := os.WriteFile(filepath.Join(target, "mine"), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Remove(t.Context(), img.id), s.Close()); err != nil {
			t.Fatal(err)
		}
		s = open(t, root)
		s.legacyMount = legacy
		if got := s.ListRootfs(); !slices.Equal(got, []string{"c1"}) {
			t.Errorf("rootfs after restart: %v", got)
		}
		if readFile(t, target, "etc/a") != "high" {
			t.Error("files of a removed image are gone")
		}
		for range 2 {
			if err := s.UnmountRootfs(t.Context(), "c1", target); err != nil {
				t.Error(err)
			}
		}
		// The mark that the kernel leaves in a volatile overlay must not be in
		// the way.
		if err := s.MountRootfs(t.Context(), "c1", target, RootfsOptions{}); err != nil {
			t.Errorf("mount once more: %v", err)
		}
		if readFile(t, target, "mine") != "mine" {
			t.Error("writable layer is gone")
		}
		if err := s.UnmountRootfs(t.Context(), "c1", target); err != nil {
			t.Error(err)
		}
		if layerCount(t, root) != 2 {
			t.Errorf("%d layers under the rootfs, want 2", layerCount(t, root))
		}
		for range 2 {
			if err := s.RemoveRootfs(t.Context(), "c1"); err != nil {
				t.Error(err)
			}
		}
		if layerCount(t, root) != 0 || len(s.ListRootfs()) != 0 {
			t.Errorf("left: %d layers, rootfs %v", layerCount(t, root), s.ListRootfs())
		}
	})
}

func TestManyLayers(t *testing.T) {
	requireRoot(t)
	f := newFakeRegistry(t)
	s := open(t, t.TempDir())
	for _, n := range []int{100, maxLayers} {
		repo := fmt.Sprint("many", n)
		img := f.push(repo, ocispec.Image{}, manyLayers(n), "latest")
		pull(t, s, f.host()+"/"+repo)
		for _, s.legacyMount = range []bool{false, true} {
			target := mountRootfs(t, s, fmt.Sprint(repo, s.legacyMount), img.id, RootfsOptions{})
			if got := readFile(t, target, "last"); got != fmt.Sprint(n-1) {
				t.Errorf("last layer is %s", got)
			}
			if got := readFile(t, target, "file0"); got != "0" {
				t.Errorf("first layer has %s", got)
			}
		}
	}
	f.push("toomany", ocispec.Image{}, manyLayers(maxLayers+1), "latest")
	if _, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/toomany"}); !errdefs.IsNotImplemented(err) {
		t.Errorf("too many layers: %v", err)
	}
}

func TestLongPaths(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		img := f.push("app", ocispec.Image{}, rootfsLayers(), "latest")
		root := filepath.Join(t.TempDir(), strings.Repeat("long,comma:colon/", 12))
		if err := os.MkdirAll(root, 0o700); err != nil {
			t.Fatal(err)
		}
		s := open(t, root)
		s.legacyMount = legacy
		pull(t, s, f.host()+"/app")
		target := mountRootfs(t, s, "c", img.id, RootfsOptions{})
		if readFile(t, target, "etc/a") != "high" {
			t.Error("wrong contents")
		}
	})
}

func TestRootfsErrors(t *testing.T) {
	f := newFakeRegistry(t)
	img := f.push("app", ocispec.Image{}, nil, "latest")
	other := f.push("other", ocispec.Image{Author: "o"}, nil, "latest")
	root := t.TempDir()
	s := open(t, root)
	pull(t, s, f.host()+"/app")
	pull(t, s, f.host()+"/other")
	for _, id := range []string{"", ".", "..", "a/b", "../x", ".trash-x", "a\x00", strings.Repeat("x", 256)} {
		if err := s.PrepareRootfs(t.Context(), id, img.id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", id, err)
		}
		if err := s.RemoveRootfs(t.Context(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if err := s.PrepareRootfs(t.Context(), "c", "unknown"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown image: %v", err)
	}
	if err := s.MountRootfs(t.Context(), "c", t.TempDir(), RootfsOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("unknown rootfs: %v", err)
	}
	if err := s.PrepareRootfs(t.Context(), "c", img.id); err != nil {
		t.Fatal(err)
	}
	if err := s.PrepareRootfs(t.Context(), "c", other.id); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another image: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(s.rootfsDir("c"), rootfsFile), 3); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	if got := s.ListRootfs(); !slices.Equal(got, []string{"c"}) {
		t.Errorf("a broken rootfs is not listed: %v", got)
	}
	if err := s.MountRootfs(t.Context(), "c", t.TempDir(), RootfsOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("broken rootfs: %v", err)
	}
	if err := s.RemoveRootfs(t.Context(), "c"); err != nil || len(s.ListRootfs()) != 0 {
		t.Errorf("a broken rootfs cannot be removed: %v", err)
	}
}

func TestPrepareConcurrently(t *testing.T) {
	f := newFakeRegistry(t)
	img := f.push("app", ocispec.Image{}, rootfsLayers(), "latest")
	root := t.TempDir()
	s := open(t, root)
	pull(t, s, f.host()+"/app")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := s.PrepareRootfs(t.Context(), fmt.Sprint("c", i%4), img.id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Remove(t.Context(), img.id); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		wg.Go(func() {
			if err := s.RemoveRootfs(t.Context(), fmt.Sprint("c", i%4)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.ListRootfs(); len(got) != 0 || layerCount(t, root) != 0 {
		t.Errorf("left: %v and %d layers", got, layerCount(t, root))
	}
}
