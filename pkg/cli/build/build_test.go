package build

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "64m": 64 << 20, "2G": 2 << 30, "3kb": 3 << 10, "4MiB": 4 << 20, "x": -1, "-1": -1, "": -1} {
		got, err := parseSize(s)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("size %q: %d, want %d", s, got, want)
		}
	}
	t.Setenv("OF_THE_ENVIRONMENT", "e")
	got, err := keyValues("--x", []string{"A=1=2", "OF_THE_ENVIRONMENT", "NOT_THERE", "B="}, true)
	if err != nil || len(got) != 3 || got["A"] != "1=2" || got["OF_THE_ENVIRONMENT"] != "e" {
		t.Errorf("arguments: %v, %v", got, err)
	}
	if _, err := keyValues("--x", []string{"=1"}, true); err == nil {
		t.Error("a value without a name was taken")
	}
}

func TestContext(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{".dockerignore": "*\n!d/keep\n!a", "a": "1", "b": "2", "d/keep": "3", "d/not": "4"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/keep2")); err != nil {
		t.Fatal(err)
	}
	patterns, err := ignorePatterns(filepath.Join(dir, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := writeContext(t.Context(), sending{dir: dir, ignore: patterns}, &buf); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s belongs to %d:%d %s", h.Name, h.Uid, h.Gid, h.Uname)
		}
		names = append(names, h.Name)
	}
	if want := []string{".dockerignore", "a", "d/", "d/keep"}; !slices.Equal(names, want) {
		t.Errorf("sent %v, want %v", names, want)
	}
}

// What a build has made writes nothing beside the directory it is wanted in.
func TestUnpackStaysInside(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, entries := range [][]tar.Header{
		{{Typeflag: tar.TypeReg, Name: "../" + filepath.Base(outside) + "/evil"}},
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: outside}, {Typeflag: tar.TypeReg, Name: "l/evil"}},
		{{Typeflag: tar.TypeSymlink, Name: "f", Linkname: outside + "/evil"}, {Typeflag: tar.TypeReg, Name: "f"}},
		{{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755}, {Typeflag: tar.TypeSymlink, Name: "d", Linkname: outside}},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range entries {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_ = unpack(&buf, root) // some of it may be refused
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
	info, err := os.Stat(outside)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("outside: %v, %v", info.Mode(), err)
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := newPlain(&out)
	p.update(&nodev1.BuildResponse{Steps: []*nodev1.Step{{Id: "a", Name: "one", StartedAt: 1}}})
	p.update(&nodev1.BuildResponse{Steps: []*nodev1.Step{{Id: "b", Name: "two", StartedAt: 1}}})
	p.update(&nodev1.BuildResponse{Steps: []*nodev1.Step{{Id: "a", Name: "one", StartedAt: 1, CompletedAt: 1e8 + 1, Cached: true}}})
	p.update(&nodev1.BuildResponse{Steps: []*nodev1.Step{{Id: "b", Name: "two", StartedAt: 1, CompletedAt: 2e8 + 1}}})
	p.end(nil)
	want := "#1 one\n\n#2 two\n\n#1 one\n#1 CACHED\n\n#2 two\n#2 DONE 0.2s\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{"a\x1b[2Jb": "a[2Jb", "10%\r20%": "20%", "done\r": "done", "a\tb": "a b"} {
		if got := printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

// Where no daemon answers, the file that was to be made leaves nothing.
func TestNoDaemonLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	c := Command(&client.Flags{Address: "unix://" + filepath.Join(dir, "none.sock")})
	c.SetArgs([]string{"-o", "type=tar,dest=" + filepath.Join(out, "x.tar"), dir})
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	c.SilenceErrors = true
	if err := c.ExecuteContext(t.Context()); err == nil {
		t.Error("it was built")
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
