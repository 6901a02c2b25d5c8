package credentials

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveErase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docker")
	t.Setenv("DOCKER_CONFIG", dir)
	if a, err := For("example.com"); a != nil || err != nil {
		t.Fatalf("For without a file = %v, %v", a, err)
	}
	path, err := Save("https://Example.com:5000/v2/", "user", "p:w", "")
	if err != nil || path != filepath.Join(dir, "config.json") {
		t.Fatal(path, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the file: %v, %v", info, err)
	}
	a, err := For("example.com:5000")
	if err != nil || a.GetAuth() != "dXNlcjpwOnc=" || a.GetServerAddress() != "example.com:5000" {
		t.Errorf("For = %v, %v", a, err)
	}
	if _, err := Save("docker.io", "hub", "x", ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"busybox", "library/busybox:1", "docker.io/x/y"} {
		if a, err := For(OfImage(name)); err != nil || a == nil {
			t.Errorf("no credentials for %s: %v", name, err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), hubKey) {
		t.Errorf("file is %s, %v", b, err)
	}
	for _, want := range []bool{true, false} {
		if found, err := Erase("example.com:5000"); found != want || err != nil {
			t.Errorf("Erase = %v, %v, want %v", found, err, want)
		}
	}
}

func TestKeepsOtherFields(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	path, err := Path()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"auths":{"a.b":{},"https://c.d/v1/":{"username":"u","password":"p"}},"HttpHeaders":{"X":"y"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := For("c.d"); err != nil || a.GetUsername() != "u" {
		t.Errorf("For = %v, %v", a, err)
	}
	if a, err := For("a.b"); err != nil || a != nil {
		t.Errorf("an entry of a helper's is %v, %v", a, err)
	}
	if _, err := Save("e.f", "u", "p", ""); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), "HttpHeaders") || !strings.Contains(string(b), "c.d/v1") {
		t.Errorf("file is %s, %v", b, err)
	}
	if err := os.WriteFile(path, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Save("e.f", "u", "p", ""); err == nil {
		t.Error("a broken file was written over")
	}
}
