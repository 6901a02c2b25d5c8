package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mountLayers applies layers, lowest first, and mounts them read-only.
func mountLayers(t *testing.T, layers ...[]entry) string {
	t.Helper()
	requireRoot(t)
	top := t.TempDir()
	var lower []string
	for i, entries := range layers {
		d := filepath.Join(top, string(rune('a'+i)))
		must(t, os.Mkdir(d, 0o700))
		_, err := Apply(t.Context(), bytes.NewReader(pack(t, entries...)), d, Options{})
		must(t, err)
		lower = append([]string{d}, lower...)
	}
	target := filepath.Join(top, "merged")
	must(t, os.Mkdir(target, 0o700))
	lower = append(lower, target) // overlayfs wants two; this one is empty
	must(t, unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")))
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
	return target
}

// What is on disk has to mean to overlayfs what the tar says.
func TestOverlay(t *testing.T) {
	base := []entry{
		file("keep", "1"), file("gone", "1"), file("dir/gone", "1"), file("dir/keep", "1"), symlink("link", "keep"),
		file("tree/a/b", "1"), file("opaque/old", "1"), file("opaque/sub/old", "1"), file("again/old", "1"),
		file("first/old", "1"), file("after/old", "1"), file("type/old", "1"), file("file", "1"), file("h", "1"),
	}
	upper := []entry{
		file(".wh.gone", ""), file("dir/.wh.gone", ""), file(".wh.link", ""), file(".wh.tree", ""), file(".wh.never", ""),
		file("opaque/new", "2"), file("opaque/.wh..wh..opq", ""), dir("opaque/sub"),
		file(".wh.again", ""), dir("again"), file("again/new", "2"),
		file(".wh.first", ""), file("first/new", "2"),
		file("after/new", "2"), file(".wh.after", ""),
		file("type", "2"), dir("file"), file("file/f", "2"),
		hardlink("h2", "file/f"), file("h", "2"), file("s1", strings.Repeat("\x00", pageSize)+"e"),
	}
	got := tree(t, mountLayers(t, base, upper))
	want := map[string]string{
		"keep": "file 1", "dir": "dir", "dir/keep": "file 1", "opaque": "dir", "opaque/new": "file 2", "opaque/sub": "dir",
		"again": "dir", "again/new": "file 2", "first": "dir", "first/new": "file 2", "after": "dir", "after/new": "file 2",
		"type": "file 2", "file": "dir", "file/f": "file 2", "h2": "file 2", "h": "file 2", "s1": "file " + strings.Repeat("\x00", pageSize) + "e",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}

	third := []entry{file("gone", "3"), dir("tree"), file("opaque/old", "3"), file(".wh.keep", "")}
	got = tree(t, mountLayers(t, base, upper, third))
	delete(want, "keep")
	want["gone"], want["tree"], want["opaque/old"] = "file 3", "dir", "file 3"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("merged with a third (-want +got):\n%s", diff)
	}
}

// No layer can tell overlayfs anything but by whiteouts.
func TestOverlaySmuggling(t *testing.T) {
	base := []entry{file("secret/f", "1"), file("dir/f", "1")}
	upper := []entry{
		dir("dir").xattr("trusted.overlay.opaque", "y").xattr("trusted.overlay.redirect", "/secret").xattr("user.overlay.opaque", "y"),
		file("meta", "").xattr("trusted.overlay.metacopy", "x").xattr("trusted.overlay.redirect", "/secret/f"),
		file("dir/white", "").xattr("trusted.overlay.whiteout", "y"),
		node(tar.TypeBlock, "dir/block", 0, 0),
	}
	got := tree(t, mountLayers(t, base, upper))
	want := map[string]string{"secret": "dir", "secret/f": "file 1", "dir": "dir", "dir/f": "file 1", "dir/white": "file ", "dir/block": "block 0:0", "meta": "file "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
}

// The documentation says that overlayfs does not heed an opaque root. If it
// comes to, who stacks layers can be told.
func TestOverlayOpaqueRoot(t *testing.T) {
	target := mountLayers(t, []entry{file("old", "1")}, []entry{file(".wh..wh..opq", ""), file("new", "2")})
	if got := xattrs(t, filepath.Join(filepath.Dir(target), "b"))[opaqueXattr]; got != "y" {
		t.Errorf("root has opaque attribute %q", got)
	}
	if got := tree(t, target); got["old"] == "" || got["new"] == "" {
		t.Errorf("overlayfs merged an opaque root to %v", got)
	}
}
