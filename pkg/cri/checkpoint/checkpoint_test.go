package checkpoint

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func testKey(t testing.TB) Key {
	t.Helper()
	k, err := LoadKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// archive writes a good archive.
func archive(t testing.TB, k Key) []byte {
	t.Helper()
	dir := t.TempDir()
	images := filepath.Join(dir, "images")
	diff := filepath.Join(dir, "diff")
	if err := errors.Join(
		os.Mkdir(images, 0o700),
		os.WriteFile(filepath.Join(images, "core-1.img"), []byte("core"), 0o600),
		os.WriteFile(filepath.Join(images, "pages-1.img"), bytes.Repeat([]byte("p"), 100_000), 0o600),
		os.WriteFile(diff, []byte("diff"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := k.Write(t.Context(), &b, Content{
		Container: Container{ID: "c", Name: "n", ImageID: "sha256:1", CheckpointedAt: time.Unix(1_700_000_000, 0)},
		Stdio:     [3]string{"", "file[1a:2b]", "file[1a:2c]"}, Spec: []byte(`{"ociVersion":"1.0"}`), Images: images, Diff: diff,
	}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// repack lets edit change, drop or add the entries of an archive.
func repack(t testing.TB, in []byte, edit func(hdr *tar.Header, body []byte, w *tar.Writer) []byte) []byte {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(in))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if body = edit(hdr, body, w); body == nil {
			continue
		}
		hdr.Size = int64(len(body))
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag == tar.TypeReg {
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	k := testKey(t)
	in := archive(t, k)
	m, err := k.Peek(bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if m.Container.Name != "n" || m.Stdio[1] != "file[1a:2b]" {
		t.Errorf("manifest is %+v", m)
	}
	u, err := k.Unpack(t.Context(), bytes.NewReader(in), filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	checkUnpacked(t, u)

	layer := t.TempDir()
	untar(t, in, layer)
	if _, err := k.PeekDir(layer); err != nil {
		t.Error(err)
	}
	u, err = k.UnpackDir(t.Context(), layer, filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	checkUnpacked(t, u)
}

func checkUnpacked(t *testing.T, u *Unpacked) {
	t.Helper()
	core, err := os.ReadFile(filepath.Join(u.Images, "core-1.img"))
	if err != nil || string(core) != "core" {
		t.Errorf("core is %q, %v", core, err)
	}
	diff, err := os.ReadFile(u.Diff)
	if err != nil || string(diff) != "diff" {
		t.Errorf("diff is %q, %v", diff, err)
	}
	if string(u.Spec) != `{"ociVersion":"1.0"}` {
		t.Errorf("spec is %q", u.Spec)
	}
}

func untar(t *testing.T, in []byte, dir string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(in))
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		path := filepath.Join(dir, hdr.Name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, body, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHostileArchives: each of them is refused, and nothing is written outside
// the directory to unpack to. The names of the CVEs are those of reports about
// other programs.
func TestHostileArchives(t *testing.T) {
	k := testKey(t)
	good := archive(t, k)
	swap := func(name, with string) func(*tar.Header, []byte, *tar.Writer) []byte {
		return func(hdr *tar.Header, body []byte, _ *tar.Writer) []byte {
			if hdr.Name == name {
				return []byte(with)
			}
			return body
		}
	}
	tests := map[string]struct {
		archive []byte
		want    string
	}{
		"empty":             {nil, "cri-node.json"},
		"text":              {[]byte("hello"), "cri-node.json"},
		"another program's": {repack(t, good, func(hdr *tar.Header, b []byte, _ *tar.Writer) []byte { hdr.Name = "x" + hdr.Name; return b }), "does not begin"},
		"another key":       {archive(t, testKey(t)), "does not match"},
		"no mac":            {repack(t, good, swap(macName, "")), "does not match"},
		"another image (CVE-2026-50195)": {repack(t, good, func(hdr *tar.Header, b []byte, _ *tar.Writer) []byte {
			return bytes.ReplaceAll(b, []byte("sha256:1"), []byte("sha256:2"))
		}), "does not match"},
		"spec with mounts of the host (CVE-2024-8676)": {repack(t, good, swap(specName, `{"mounts":[{"source":"/"}]}`)), "not what its manifest says"},
		"spec with annotations (CVE-2026-53492)":       {repack(t, good, swap(specName, `{"annotations":{"cdi.k8s.io/x":"vendor.com/dev=all"}}`)), "not what its manifest says"},
		"other memory":                                 {repack(t, good, swap("checkpoint/core-1.img", "evil")), "not what its manifest says"},
		"longer memory":                                {repack(t, good, swap("checkpoint/core-1.img", "core+")), "not what its manifest says"},
		"other files":                                  {repack(t, good, swap(diffName, "riff")), "not what its manifest says"},
		"missing file": {repack(t, good, func(hdr *tar.Header, b []byte, _ *tar.Writer) []byte {
			if hdr.Name == diffName {
				return nil
			}
			return b
		}), "has no rootfs-diff.tar"},
		"link in place of a file": {repack(t, good, func(hdr *tar.Header, b []byte, _ *tar.Writer) []byte {
			if hdr.Name == "checkpoint/core-1.img" {
				hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, "/etc/shadow"
				return []byte{}
			}
			return b
		}), "has no checkpoint/core-1.img"},
		"cut": {good[:len(good)/2], ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := k.Unpack(t.Context(), bytes.NewReader(test.archive), filepath.Join(t.TempDir(), "x"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			if test.want != "" && !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v is not of class invalid argument", err)
			}
		})
	}
}

// TestMoreThanTheManifest: what the manifest does not name is never unpacked:
// a log that is a link to the host's files (CVE-2026-53489), names that lead
// out, files twice.
func TestMoreThanTheManifest(t *testing.T) {
	k := testKey(t)
	added := false
	in := repack(t, archive(t, k), func(hdr *tar.Header, body []byte, w *tar.Writer) []byte {
		if hdr.Name != configName || added {
			return body
		}
		added = true
		for _, extra := range []*tar.Header{
			{Typeflag: tar.TypeSymlink, Name: "container.log", Linkname: "/etc/shadow"},
			{Typeflag: tar.TypeSymlink, Name: "checkpoint", Linkname: "/tmp"},
			{Typeflag: tar.TypeReg, Name: "../../escaped"},
			{Typeflag: tar.TypeReg, Name: "checkpoint/more.img"},
			{Typeflag: tar.TypeLink, Name: "checkpoint/core-1.img", Linkname: "/etc/shadow"},
		} {
			if err := w.WriteHeader(extra); err != nil {
				t.Fatal(err)
			}
		}
		return body
	})
	dir := t.TempDir()
	u, err := k.Unpack(t.Context(), bytes.NewReader(in), filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	checkUnpacked(t, u)
	var all []string
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
			if !d.Type().IsRegular() {
				t.Errorf("%s is no file", path)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Errorf("unpacked %v, want the two process images and the changes", all)
	}
}

// TestHostileDirs: an image's layer may hold anything.
func TestHostileDirs(t *testing.T) {
	k := testKey(t)
	good := archive(t, k)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("core"), 0o600); err != nil {
		t.Fatal(err)
	}
	replace := func(name string, with func(path string) error) func(dir string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			return errors.Join(os.Remove(path), with(path))
		}
	}
	tests := map[string]func(dir string) error{
		"link to a file":     replace("checkpoint/core-1.img", func(p string) error { return os.Symlink(secret, p) }),
		"link of a manifest": replace(manifestName, func(p string) error { return os.Symlink(secret, p) }),
		"pipe":               replace("checkpoint/core-1.img", func(p string) error { return unix.Mkfifo(p, 0o600) }),
		"link to a directory": func(dir string) error {
			out := filepath.Join(filepath.Dir(secret), "out")
			return errors.Join(os.Rename(filepath.Join(dir, "checkpoint"), out), os.Symlink(out, filepath.Join(dir, "checkpoint")))
		},
		"gone": func(dir string) error { return os.Remove(filepath.Join(dir, specName)) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			layer := t.TempDir()
			untar(t, good, layer)
			if err := spoil(layer); err != nil {
				t.Fatal(err)
			}
			if _, err := k.UnpackDir(t.Context(), layer, filepath.Join(t.TempDir(), "x")); !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v, want it refused", err)
			}
		})
	}
}

// TestSignedNonsense: even a manifest that is ours names no file outside.
func TestSignedNonsense(t *testing.T) {
	k := testKey(t)
	for _, document := range []string{
		`[]`, `{"version":2}`, `{"version":1}`,
		`{"version":1,"files":[{"name":"../x"},{"name":"spec.dump"},{"name":"rootfs-diff.tar"}]}`,
		`{"version":1,"files":[{"name":"checkpoint/a/b"},{"name":"spec.dump"},{"name":"rootfs-diff.tar"}]}`,
		`{"version":1,"files":[{"name":"spec.dump"},{"name":"spec.dump"},{"name":"rootfs-diff.tar"}]}`,
		`{"version":1,"files":[{"name":"spec.dump","size":-1},{"name":"rootfs-diff.tar"}]}`,
		`{"version":1,"stdio":["file[1:2]\ninherit-fd fd[3]:x","",""],"files":[{"name":"spec.dump"},{"name":"rootfs-diff.tar"}]}`,
	} {
		if m, err := k.parseManifest([]byte(document), k.sign([]byte(document))); err == nil {
			t.Errorf("%s was taken: %+v", document, m)
		}
	}
}

func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	first, err := LoadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadKey(file)
	if err != nil || !bytes.Equal(first.secret, again.secret) {
		t.Fatalf("another key at the second time, %v", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(file); err == nil {
		t.Error("a key that all can read was taken")
	}
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(short); err == nil {
		t.Error("a key of one byte was taken")
	}
}

func FuzzUnpack(f *testing.F) {
	k := testKey(f)
	f.Add(archive(f, k))
	f.Add([]byte("cri-node.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = k.Unpack(t.Context(), bytes.NewReader(b), filepath.Join(t.TempDir(), "x"))
	})
}
