package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExportRoundTrip: what Apply has made, Export and Apply make again.
func TestExportRoundTrip(t *testing.T) {
	requireRoot(t)
	first := t.TempDir()
	in := pack(t,
		dir("./").with(func(h *tar.Header) { h.Mode = 0o711; h.Uid = 7 }),
		dir("d").with(func(h *tar.Header) { h.Mode = 0o1777; h.Gid = 5 }),
		file("d/a", "hello").with(func(h *tar.Header) { h.Mode = 0o4755; h.Uid = 1000 }).xattr("user.x", "y"),
		hardlink("d/b", "d/a"),
		symlink("link", "/etc/shadow"),
		node(tar.TypeChar, "null", 1, 3),
		node(tar.TypeFifo, "fifo", 0, 0),
		file(".wh.gone", ""),
		dir("o"),
		file("o/.wh..wh..opq", ""),
		file("o/new", "new"),
	)
	if _, err := Apply(t.Context(), bytes.NewReader(in), first, Options{}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(first, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var once bytes.Buffer
	if err := Export(t.Context(), first, &once); err != nil {
		t.Fatal(err)
	}
	second := t.TempDir()
	if _, err := Apply(t.Context(), bytes.NewReader(once.Bytes()), second, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(second, "socket")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket was exported: %v", err)
	}
	var again bytes.Buffer
	if err := Export(t.Context(), second, &again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(once.Bytes(), again.Bytes()) {
		t.Error("the second export differs from the first")
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(second, "gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout is %o %d, %v", st.Mode, st.Rdev, err)
	}
	if err := unix.Lstat(filepath.Join(second, "d/b"), &st); err != nil || st.Nlink != 2 || st.Uid != 1000 || st.Mode&0o7777 != 0o4755 {
		t.Errorf("the hard link has %d links, owner %d, mode %o, %v", st.Nlink, st.Uid, st.Mode, err)
	}
}

// TestExportFollowsNoLink: a container that swaps a directory for a symlink
// must not make us read the host.
func TestExportFollowsNoLink(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("TOP"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(secret, filepath.Join(dir, "f")), os.Symlink(filepath.Dir(secret), filepath.Join(dir, "d"))); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Export(t.Context(), dir, &out); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out.Bytes(), []byte("TOP")) {
		t.Error("the content behind a symlink was exported")
	}
}

func TestExportEnds(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Export(ctx, dir, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("export with an ended context gives %v", err)
	}
}
