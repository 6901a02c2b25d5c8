package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/diskusage"
)

// owned is a directory in a tar.
func owned(name string, mode int64, uid int) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, Gid: uid, ModTime: time.Unix(1_500_000_000, 0)}
}

func empty(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }

func headerLayer(headers ...tar.Header) fakeLayer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		_ = w.WriteHeader(&h)
	}
	_ = w.Close()
	return fakeLayer{blob: buf.Bytes(), mediaType: ocispec.MediaTypeImageLayer, diffID: digest.FromBytes(buf.Bytes())}
}

// wantDir compares mode and owner.
func wantDir(t *testing.T, mode os.FileMode, uid uint32, elem ...string) {
	t.Helper()
	info, err := os.Lstat(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode() != mode|os.ModeDir || st.Uid != uid || st.Gid != uid {
		t.Errorf("%s: %v, owner %d:%d, want %v, %d", filepath.Join(elem[1:]...), info.Mode(), st.Uid, st.Gid, mode, uid)
	}
}

func TestInheritedDirectories(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		base := headerLayer(owned("./", 0o711, 5), owned("tmp/", 0o1777, 6), owned("home/u/", 0o700, 7), owned("gone/", 0o700, 8))
		use := headerLayer(empty("tmp/x"), empty(".wh.gone"), empty("home/u/\xff/x"))
		top := headerLayer(empty("tmp/y"), empty("home/u/\xff/y"), empty("gone/y"))
		first := f.push("first", ocispec.Image{}, []fakeLayer{base, use, top}, "latest")
		root := t.TempDir()
		s := open(t, root)
		s.legacyMount = legacy
		pull(t, s, f.host()+"/first")
		check := func(target string) {
			t.Helper()
			wantDir(t, 0o711, 5, target)
			wantDir(t, 0o777|os.ModeSticky, 6, target, "tmp")
			wantDir(t, 0o700, 7, target, "home/u")
			wantDir(t, 0o755, 0, target, "home/u/\xff")
			wantDir(t, 0o755, 0, target, "gone")
		}
		target := mountRootfs(t, s, "c1", first.id, RootfsOptions{})
		check(target)
		if info, err := os.Lstat(target); err != nil || info.ModTime().Unix() != 1_500_000_000 {
			t.Errorf("time of the root: %v, %v", info.ModTime(), err)
		}
		check(mountRootfs(t, s, "c2", first.id, RootfsOptions{ReadOnly: true}))

		// What a record says serves an image that comes after a restart.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, root)
		s.legacyMount = legacy
		more := headerLayer(empty("tmp/z"), empty("home/u/\xff/z"))
		second := f.push("second", ocispec.Image{}, []fakeLayer{base, use, top, more}, "latest")
		pull(t, s, f.host()+"/second")
		check(mountRootfs(t, s, "c3", second.id, RootfsOptions{}))

		// A layer that is there already stays as it is, under other parents too.
		other := headerLayer(owned("./", 0o750, 1), owned("tmp/", 0o700, 1))
		third := f.push("third", ocispec.Image{}, []fakeLayer{other, use}, "latest")
		pull(t, s, f.host()+"/third")
		target = mountRootfs(t, s, "c4", third.id, RootfsOptions{})
		wantDir(t, 0o750, 1, target)
		wantDir(t, 0o777|os.ModeSticky, 6, target, "tmp")
		wantDir(t, 0o777|os.ModeSticky, 6, s.layerDir(use.diffID), layerDiff, "tmp")
	})
}

// Nobody lists the root: it is as that of an empty image.
func TestRootNobodyLists(t *testing.T) {
	requireRoot(t)
	f := newFakeRegistry(t)
	img := f.push("app", ocispec.Image{}, []fakeLayer{headerLayer(empty("a")), headerLayer(empty("b"))}, "latest")
	s := open(t, t.TempDir())
	pull(t, s, f.host()+"/app")
	wantDir(t, 0o755, 0, mountRootfs(t, s, "c", img.id, RootfsOptions{}))
}

func TestOpaqueRoot(t *testing.T) {
	bothWays(t, func(t *testing.T, legacy bool) {
		f := newFakeRegistry(t)
		img := f.push("app", ocispec.Image{}, []fakeLayer{
			headerLayer(owned("./", 0o711, 5), empty("lowest")),
			headerLayer(empty("low"), owned("d/", 0o700, 5)),
			headerLayer(empty(".wh..wh..opq"), empty("mid")),
			headerLayer(empty("high"), empty("d/f")),
		}, "latest")
		root := t.TempDir()
		s := open(t, root)
		pull(t, s, f.host()+"/app")
		for _, id := range []string{"fresh", "recovered"} {
			s.legacyMount = legacy
			for _, readOnly := range []bool{false, true} {
				target := mountRootfs(t, s, fmt.Sprint(id, readOnly), img.id, RootfsOptions{ReadOnly: readOnly})
				for name, want := range map[string]bool{"lowest": false, "low": false, "mid": true, "high": true} {
					if _, err := os.Lstat(filepath.Join(target, name)); (err == nil) != want {
						t.Errorf("%s: %v", name, err)
					}
				}
				wantDir(t, 0o711, 5, target)
				wantDir(t, 0o755, 0, target, "d")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, root)
		}
	})
}

func TestEscapedPath(t *testing.T) {
	for _, p := range []string{".", "a/b", "a b%2f/\xff\x00\n:*?#", "é"} {
		b, err := json.Marshal([]escapedPath{escapedPath(p)})
		if err != nil {
			t.Fatal(err)
		}
		var got []escapedPath
		if err := json.Unmarshal(b, &got); err != nil || string(got[0]) != p {
			t.Errorf("%q became %s and %q, %v", p, b, got, err)
		}
	}
}

func TestRootfsUsage(t *testing.T) {
	f := newFakeRegistry(t)
	img := f.push("app", ocispec.Image{}, nil, "latest")
	s := open(t, t.TempDir())
	pull(t, s, f.host()+"/app")
	if err := s.PrepareRootfs(t.Context(), "c", img.id); err != nil {
		t.Fatal(err)
	}
	before, _, err := s.RootfsUsage("c", "")
	if err != nil || before.Inodes != 1 {
		t.Errorf("%+v, %v", before, err)
	}
	upper := filepath.Join(s.rootfsDir("c"), rootfsUpper)
	if err := os.WriteFile(filepath.Join(upper, "f"), make([]byte, 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	waitUsage(t, s, "c", "", func(u diskusage.Usage) bool { return u.Inodes == 2 && u.Bytes >= 10000 })
	if err := s.RemoveRootfs(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RootfsUsage("c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("usage of a removed rootfs: %v", err)
	}
}

// waitUsage asks until the answer is as it should be.
func waitUsage(t *testing.T, s *Store, id, mount string, ok func(diskusage.Usage) bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		u, _, err := s.RootfsUsage(id, mount)
		if err == nil && ok(u) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("usage is %+v, %v", u, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
