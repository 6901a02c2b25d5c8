package containers

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestParseCopyArg(t *testing.T) {
	for s, want := range map[string]place{
		"web:/etc": {"web", "/etc"}, "/etc:x": {path: "/etc:x"}, "./a:b": {path: "./a:b"}, "file": {path: "file"}, "-": {path: "-"},
		"shop/db-0/main:/x": {"shop/db-0/main", "/x"}, "web:": {"web", ""},
	} {
		if got := parseCopyArg(s); got != want {
			t.Errorf("%s is %+v, want %+v", s, got, want)
		}
	}
}

func TestPlanOut(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return dir + "/" + name }
	for _, err := range []error{os.Mkdir(at("dir"), 0o755), os.WriteFile(at("file"), nil, 0o600), os.Symlink("file", at("link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		isDir      bool
		source, to string
		want       unpacker
		err        error
	}{
		"new file":            {false, "/x", at("new"), unpacker{dir: dir, from: "x", to: "new"}, nil},
		"file into directory": {false, "/x", at("dir"), unpacker{dir: at("dir"), from: "x", to: "x"}, nil},
		"over a file":         {false, "/x", at("file"), unpacker{dir: dir, from: "x", to: "file"}, nil},
		"through a link":      {false, "/x", at("link"), unpacker{dir: dir, from: "x", to: "file"}, nil},
		"no directory":        {false, "/x", at("new/"), unpacker{}, errNoDirectory},
		"new directory":       {true, "/x", at("new"), unpacker{dir: dir, from: "x", to: "new"}, nil},
		"into directory":      {true, "/x", at("dir"), unpacker{dir: at("dir"), from: "x", to: "x"}, nil},
		"content":             {true, "/x/.", at("dir"), unpacker{dir: at("dir"), from: "x", to: "."}, nil},
		"directory over file": {true, "/x", at("file"), unpacker{}, errDirOverFile},
	} {
		got, err := planOut("x", test.isDir, test.source, test.to)
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestPlanIn(t *testing.T) {
	for name, test := range map[string]struct {
		isDir      bool
		source, to string
		target     target
		dir, as    string
		err        error
	}{
		"new":           {false, "f", "/a/b", target{path: "/a/b"}, "/a", "b", nil},
		"into":          {false, "f", "/a", target{exists: true, isDir: true, path: "/a"}, "/a", "f", nil},
		"content":       {true, "d/.", "/a", target{exists: true, isDir: true, path: "/a"}, "/a", ".", nil},
		"no directory":  {false, "f", "/a/", target{path: "/a"}, "", "", errNoDirectory},
		"over file":     {true, "d", "/a", target{exists: true, path: "/a"}, "", "", errDirOverFile},
		"replaces file": {false, "f", "/a", target{exists: true, path: "/real/a"}, "/real", "a", nil},
	} {
		dir, as, err := planIn("f", test.isDir, test.source, test.to, test.target)
		if dir != test.dir || as != test.as || !errors.Is(err, test.err) {
			t.Errorf("%s: %s, %s, %v", name, dir, as, err)
		}
	}
}

func TestPackAndUnpack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(from, "d", "sub"), 0o755), os.WriteFile(filepath.Join(from, "d", "sub", "f"), []byte("text"), 0o640),
		os.Symlink("sub/f", filepath.Join(from, "d", "link")), os.Chmod(filepath.Join(from, "d", "sub"), 0o500),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	size, err := pack(&b, filepath.Join(from, "d"), "top", false)
	if err != nil || size != 4 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if size, err = (unpacker{dir: to, from: "top", to: "renamed"}).unpack(&b); err != nil || size != 4 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if data, err := os.ReadFile(filepath.Join(to, "renamed", "link")); err != nil || string(data) != "text" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(to, "renamed", "sub")); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestUnpackHostile: the tar comes from a container, which may have made it.
func TestUnpackHostile(t *testing.T) {
	base := t.TempDir()
	to, outside := filepath.Join(base, "to"), filepath.Join(base, "outside")
	for _, dir := range []string{to, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, headers := range [][]tar.Header{
		{{Name: "x/../../../outside/f", Typeflag: tar.TypeReg}},
		{{Name: "x/l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "x/l/f", Typeflag: tar.TypeReg}},
		{{Name: "x/h", Typeflag: tar.TypeLink, Linkname: "../outside/f"}},
		{{Name: "/outside/f", Typeflag: tar.TypeReg}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Mode = 0o777
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_, _ = unpacker{dir: to, from: "x", to: "."}.unpack(&b) // an error is as good as none
	}
	if data, err := os.ReadFile(filepath.Join(outside, "f")); err != nil || string(data) != "mine" {
		t.Errorf("outside is %q, %v", data, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside has %v, %v", entries, err)
	}
}

// A program of a container's that runs as its owner there does not so here, where
// the owner is whoever copied it.
func TestUnpackTakesNoPowers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for keep, want := range map[bool]fs.FileMode{false: 0o755, true: 0o755 | fs.ModeSetuid | fs.ModeSetgid} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o6755}), w.Close()); err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		if _, err := (unpacker{dir: to, from: "x", to: "x", keepOwner: keep}).unpack(&b); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(to, "x")); err != nil || info.Mode() != want {
			t.Errorf("with -a %v: %v, %v", keep, info.Mode(), err)
		}
	}
}
