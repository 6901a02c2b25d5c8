package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stackOf makes layers of maps from names to contents, highest first. A content
// of "-" is a whiteout, "opaque" on a directory hides those below.
func stackOf(t *testing.T, layers ...map[string]string) []string {
	t.Helper()
	var stack []string
	for _, files := range layers {
		dir := t.TempDir()
		stack = append(stack, dir)
		for name, content := range files {
			full := filepath.Join(dir, name)
			err := os.MkdirAll(filepath.Dir(full), 0o755)
			switch {
			case err != nil:
			case content == "-":
				err = unix.Mknod(full, unix.S_IFCHR, 0)
			case content == "opaque":
				err = os.MkdirAll(full, 0o755)
				err = errors.Join(err, unix.Setxattr(full, opaqueXattr, []byte("y"), 0))
			default:
				err = os.WriteFile(full, []byte(content), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return stack
}

func TestExportMerged(t *testing.T) {
	stack := stackOf(t,
		map[string]string{"gone": "-", "dir/new": "1", "was-file/x": "2", "opaque": "opaque", "opaque/new": "3", "skip/me": "4"},
		map[string]string{"dir/old": "5", "dir/new": "hidden", "opaque/old": "hidden", "was-file": "hidden", "was-dir": "6", "back": "7"},
		map[string]string{"gone": "hidden", "dir/oldest": "8", "was-dir/x": "hidden", "was-file/x": "hidden", "back": "-"})
	var out bytes.Buffer
	err := ExportMerged(t.Context(), stack, &out, ExportOptions{Skip: func(name string, _ *unix.Stat_t) bool { return name == "skip" }})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r)
		got = append(got, h.Name+"="+string(b))
	}
	want := "./= back=7 dir/= dir/new=1 dir/old=5 dir/oldest=8 opaque/= opaque/new=3 was-dir=6 was-file/= was-file/x=2"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestChanges(t *testing.T) {
	stack := stackOf(t,
		map[string]string{"gone": "-", "dir/new": "1", "file": "2", "opaque": "opaque", "opaque/kept": "3", "etc/hosts": "", "fresh/a": "4", "never": "-"},
		map[string]string{"gone": "x", "dir/old": "x", "file": "x", "opaque/kept": "x", "opaque/lost": "x", "etc/other": "x"})
	changes, err := Changes(t.Context(), stack[0], stack[1:], func(name string, _ *unix.Stat_t) bool { return name == "etc/hosts" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, string(c.Kind)+c.Path)
	}
	want := "C/dir A/dir/new C/etc C/file A/fresh A/fresh/a D/gone C/opaque C/opaque/kept D/opaque/lost"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}
