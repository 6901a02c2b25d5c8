package volumes

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func remove(t *testing.T, s *Store, name string) {
	t.Helper()
	erase, err := s.Remove(name)
	if err == nil {
		err = erase()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A volume is gone before its files are, so that nobody waits for that, and one
// that is made meanwhile is another.
func TestRemoveIsQuick(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	write := func() {
		t.Helper()
		if _, made, err := s.Create(Volume{Name: "data"}); err != nil || !made {
			t.Fatal(made, err)
		}
		if err := os.WriteFile(filepath.Join(s.Path("data"), "f"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var erases []func() error
	for range 2 {
		write()
		erase, err := s.Remove("data")
		if err != nil {
			t.Fatal(err)
		}
		erases = append(erases, erase)
		if _, err := s.Get("data"); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
	write()
	for _, erase := range erases {
		if err := erase(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Path("data"), "f")); err != nil {
		t.Error(err)
	}
	// The daemon dies before the files are gone.
	if _, err := s.Remove("data"); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 || len(s.List()) != 0 {
		t.Error(entries, err)
	}
}

func TestVolumesStay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	v, made, err := s.Create(Volume{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil || !made {
		t.Fatal(made, err)
	}
	if empty, err := s.Empty("data"); err != nil || !empty {
		t.Fatal(empty, err)
	}
	if err := os.WriteFile(filepath.Join(s.Path("data"), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if empty, err := s.Empty("data"); err != nil || empty {
		t.Fatal(empty, err)
	}
	if size, err := s.Size(t.Context(), "data"); err != nil || size <= 0 {
		t.Error(size, err)
	}
	s = open(t, dir)
	got, made, err := s.Create(Volume{Name: "data"})
	if err != nil || made || !got.CreatedAt.Equal(v.CreatedAt) || got.Labels["a"] != "b" {
		t.Errorf("%+v %v %v", got, made, err)
	}
	if list := s.List(); len(list) != 1 || list[0].Name != "data" {
		t.Error(list)
	}
	remove(t, s, "data")
	if _, err := s.Get("data"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Error(entries, err)
	}
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"half/data", ".trash-gone/data"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 || len(s.List()) != 0 {
		t.Error(entries, err)
	}
}

// A volume whose record is torn keeps its files.
func TestBrokenRecordKeepsTheFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, _, err := s.Create(Volume{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.Path("data"), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "volume.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, err := s.Get("data"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestOpenGoesOn where something cannot be removed, or is no volume.
func TestOpenGoesOn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	s := open(t, dir)
	if _, _, err := s.Create(Volume{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "half", "data")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", half, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(half, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(dir)
	if err == nil || s == nil || len(s.List()) != 1 {
		t.Fatal(s, err)
	}
}
