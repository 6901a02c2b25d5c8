package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entry is one entry of a test layer.
type entry struct {
	tar.Header
	body string
}

var testTime = time.Unix(1_600_000_000, 0)

func header(typeflag byte, name string, mode int64) tar.Header {
	return tar.Header{Typeflag: typeflag, Name: name, Mode: mode, ModTime: testTime}
}

func file(name, body string) entry {
	h := header(tar.TypeReg, name, 0o644)
	h.Size = int64(len(body))
	return entry{h, body}
}

func dir(name string) entry { return entry{header(tar.TypeDir, name, 0o755), ""} }

func symlink(name, target string) entry {
	h := header(tar.TypeSymlink, name, 0o777)
	h.Linkname = target
	return entry{h, ""}
}

func hardlink(name, target string) entry {
	h := header(tar.TypeLink, name, 0o644)
	h.Linkname = target
	return entry{h, ""}
}

func node(typeflag byte, name string, major, minor int64) entry {
	h := header(typeflag, name, 0o666)
	h.Devmajor, h.Devminor = major, minor
	return entry{h, ""}
}

func (e entry) with(change func(*tar.Header)) entry {
	change(&e.Header)
	return e
}

func (e entry) xattr(name, value string) entry {
	return e.with(func(h *tar.Header) {
		records := map[string]string{paxXattr + name: value}
		maps.Copy(records, h.PAXRecords)
		h.PAXRecords = records
	})
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("write header of %q: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatalf("write %q: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// requireRoot skips only where the machine cannot run the test; CI sets
// REQUIRE_ROOT so that there a skip is a failure.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_ROOT") != "" {
		t.Fatal("not root")
	}
	t.Skip("needs root")
}

// sandbox is a directory with a layer to be and, next to it, files that no
// layer may touch.
type sandbox struct {
	layer   string
	outside string
	before  string
	fds     int
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	requireRoot(t)
	top := t.TempDir()
	s := &sandbox{layer: filepath.Join(top, "layer"), outside: filepath.Join(top, "outside")}
	must(t, os.Mkdir(s.layer, 0o700))
	must(t, os.MkdirAll(filepath.Join(s.outside, "dir"), 0o750))
	must(t, os.WriteFile(filepath.Join(s.outside, "secret"), []byte("secret"), 0o400))
	must(t, os.WriteFile(filepath.Join(s.outside, "dir", "file"), []byte("outside"), 0o640))
	must(t, os.Symlink("dir/file", filepath.Join(s.outside, "link")))
	s.before = fingerprint(t, s.outside)
	s.fds = countFDs(t)
	return s
}

// check fails the test if anything outside changed or a fd leaked.
func (s *sandbox) check(t testing.TB) {
	t.Helper()
	if after := fingerprint(t, s.outside); after != s.before {
		t.Fatalf("layer changed files outside:\nbefore:\n%safter:\n%s", s.before, after)
	}
	siblings, err := os.ReadDir(filepath.Dir(s.layer))
	must(t, err)
	if len(siblings) != 2 {
		t.Fatalf("layer made files beside its directory: %v", siblings)
	}
	if n := countFDs(t); n > s.fds {
		t.Fatalf("%d fds before, %d after", s.fds, n)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func countFDs(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

// fingerprint has all there is to know of a tree, change times included.
func fingerprint(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s ino=%d mode=%o owner=%d:%d nlink=%d size=%d mtime=%v ctime=%v xattrs=%q", p, st.Ino, st.Mode,
			st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim, xattrs(t, p))
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " data=%q", data)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// xattrs are those of a file itself, without the host's security labels.
func xattrs(t testing.TB, p string) map[string]string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	must(t, err)
	found := map[string]string{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		must(t, err)
		found[name] = string(value[:n])
	}
	return found
}

// tree describes what a layer has become, by path.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		found[rel], err = describe(t, p, &st)
		return err
	}))
	return found
}

func describe(t testing.TB, p string, st *unix.Stat_t) (string, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(p)
		return "file " + string(data), err
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		return "link " + target, err
	case unix.S_IFDIR:
		if xattrs(t, p)[opaqueXattr] == "y" {
			return "opaque", nil
		}
		return "dir", nil
	case unix.S_IFIFO:
		return "fifo", nil
	case unix.S_IFBLK:
		return fmt.Sprintf("block %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return "whiteout", nil
		}
		return fmt.Sprintf("char %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	}
	return "", fmt.Errorf("%s has mode %o", p, st.Mode)
}

// inodes counts what Usage.Inodes claims.
func inodes(t testing.TB, root string) int64 {
	t.Helper()
	seen := map[uint64]bool{}
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(p, &st)
		seen[st.Ino] = true
		return err
	}))
	return int64(len(seen))
}

func (s *sandbox) apply(ctx context.Context, data []byte, o Options) (Result, error) {
	return Apply(ctx, bytes.NewReader(data), s.layer, o)
}
