package linux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReadKeyed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.stat")
	if err := os.WriteFile(file, []byte("anon 12\nfile 18446744073709551615\nodd\nanon_thp max\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	anon, missing := uint64(0), uint64(5)
	if err := readKeyed(file, map[string]*uint64{"anon": &anon, "none": &missing}); err != nil || anon != 12 || missing != 5 {
		t.Fatalf("anon %d, missing %d, %v", anon, missing, err)
	}
	if err := readKeyed(file, map[string]*uint64{"anon_thp": &anon}); err == nil {
		t.Error("a value that is no number was taken")
	}
	if err := readKeyed(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestReadOptional(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"number": "42\n", "max": "max\n", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if v := readOptional(filepath.Join(dir, "number")); v == nil || *v != 42 {
		t.Errorf("number is %v", v)
	}
	for _, name := range []string{"max", "empty", "missing"} {
		if v := readOptional(filepath.Join(dir, name)); v != nil {
			t.Errorf("%s is %d", name, *v)
		}
	}
}

func TestLimitDir(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"runc.scope", "crun.scope/container", "path/container"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]string{"runc.scope": "runc.scope", "crun.scope": "crun.scope/container", "path": "path"} {
		if got := limitDir(filepath.Join(root, dir)); got != filepath.Join(root, want) {
			t.Errorf("limits of %s are in %s", dir, got)
		}
	}
}
