package inside

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tree makes a root with files beside it that nobody may reach.
func tree(t *testing.T) (root *Root, dir, outside string) {
	t.Helper()
	base := t.TempDir()
	dir, outside = filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{filepath.Join(dir, "etc"), filepath.Join(dir, "data", "sub"), outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		filepath.Join(dir, "etc", "passwd"): "inside\n", filepath.Join(dir, "data", "a"): "a", filepath.Join(dir, "data", "sub", "b"): "bb",
		filepath.Join(outside, "passwd"): "outside\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	root, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir, outside
}

func names(t *testing.T, data []byte) (all []string) {
	t.Helper()
	archive := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Name)
	}
}

// archive makes a tar; a name with a / at its end is a directory, NAME -> TARGET
// a link, NAME => TARGET a hard one.
func archive(t *testing.T, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e, Mode: 0o4755, Typeflag: tar.TypeReg, Size: int64(len(e)), Uid: 12, Gid: 34, ModTime: time.Unix(1000, 0)}
		if name, to, ok := strings.Cut(e, " -> "); ok {
			h.Name, h.Linkname, h.Typeflag, h.Size = name, to, tar.TypeSymlink, 0
		} else if name, to, ok := strings.Cut(e, " => "); ok {
			h.Name, h.Linkname, h.Typeflag, h.Size = name, to, tar.TypeLink, 0
		} else if strings.HasSuffix(e, "/") {
			h.Typeflag, h.Size, h.Mode = tar.TypeDir, 0, 0o500
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(e)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestStat(t *testing.T) {
	root, dir, outside := tree(t)
	for link, to := range map[string]string{"abs": "/etc/passwd", "up": "../../../outside/passwd", "host": filepath.Join(outside, "passwd"), "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := root.Stat("/etc/passwd", false); err != nil || st.Size != 7 || st.Name != "passwd" || st.Mode != 0o640 {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err := root.Stat("abs", true); err != nil || st.Size != 7 {
		t.Errorf("abs leads to %+v, %v", st, err)
	}
	if st, err := root.Stat("host", false); err != nil || st.Mode&fs.ModeSymlink == 0 || st.Link != filepath.Join(outside, "passwd") {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err := root.Stat("/", false); err != nil || st.Name != "." || !st.Mode.IsDir() {
		t.Errorf("%+v, %v", st, err)
	}
	for _, link := range []string{"up", "host", "nothing"} {
		if st, err := root.Stat(link, true); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%s leads to %+v, %v", link, st, err)
		}
	}
	if _, err := root.Stat("loop", true); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a loop is %v", err)
	}
}

func TestPack(t *testing.T) {
	root, dir, _ := tree(t)
	if err := os.Link(filepath.Join(dir, "data", "a"), filepath.Join(dir, "data", "z")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "data", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"data":        {"data/", "data/a", "data/fifo", "data/sub/", "data/sub/b", "data/z"},
		"/data/sub/":  {"sub/", "sub/b"},
		"/etc/passwd": {"passwd"},
	} {
		var b bytes.Buffer
		if err := root.Pack(t.Context(), &b, path, Packing{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if got := names(t, b.Bytes()); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", path, got, want)
		}
	}
	var b bytes.Buffer
	if err := root.Pack(t.Context(), &b, "data/sub", Packing{Name: "."}); err != nil || !slices.Equal(names(t, b.Bytes()), []string{"./", "b"}) {
		t.Errorf("%v, %v", names(t, b.Bytes()), err)
	}
}

func TestUnpack(t *testing.T) {
	root, dir, _ := tree(t)
	data := archive(t, "new/", "new/file", "new/link -> file", "new/hard => new/file", "forgotten/parents/x", "a", "/abs", "../../up")
	if err := root.Unpack(t.Context(), "/data", bytes.NewReader(data), Unpacking{OwnerUID: 1, OwnerGID: 2}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"new/file": "new/file", "new/hard": "new/file", "forgotten/parents/x": "forgotten/parents/x", "a": "a", "abs": "/abs", "up": "../../up"} {
		if got, err := os.ReadFile(filepath.Join(dir, "data", name)); err != nil || string(got) != text {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "data", "new", "file"), &st); err != nil || st.Uid != 1 || st.Gid != 2 || st.Mode&0o7777 != 0o4755 || st.Mtim.Sec != 1000 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := unix.Stat(filepath.Join(dir, "data", "new"), &st); err != nil || st.Mode&0o7777 != 0o500 || st.Mtim.Sec != 1000 {
		t.Errorf("directory: %+v, %v", st, err)
	}
	if err := root.Unpack(t.Context(), "/data", bytes.NewReader(archive(t, "kept")), Unpacking{KeepOwner: true}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(filepath.Join(dir, "data", "kept"), &st); err != nil || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("kept: %+v, %v", st, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	root, _, _ := tree(t)
	for name, test := range map[string]struct {
		dir  string
		data []byte
	}{
		"no directory":        {"/etc/passwd", archive(t, "x")},
		"nothing":             {"/nowhere", archive(t, "x")},
		"file over directory": {"/data", archive(t, "sub")},
		"directory over file": {"/data", archive(t, "a/")},
		"no tar":              {"/data", bytes.Repeat([]byte("x"), 1024)},
		"cut":                 {"/data", archive(t, "long")[:513]},
	} {
		if err := root.Unpack(t.Context(), test.dir, bytes.NewReader(test.data), Unpacking{}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestHostileTar: links in the tar itself, and those in its way.
func TestHostileTar(t *testing.T) {
	root, dir, outside := tree(t)
	if err := os.Symlink(outside, filepath.Join(dir, "data", "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "data", "root")); err != nil {
		t.Fatal(err)
	}
	_ = root.Unpack(t.Context(), "/data", bytes.NewReader(archive(t, "out/passwd")), Unpacking{})
	_ = root.Unpack(t.Context(), "/data", bytes.NewReader(archive(t, "l -> "+outside, "l/passwd")), Unpacking{})
	_ = root.Unpack(t.Context(), "/data", bytes.NewReader(archive(t, "h => ../../outside/passwd")), Unpacking{})
	if got, err := os.ReadFile(filepath.Join(outside, "passwd")); err != nil || string(got) != "outside\n" {
		t.Errorf("outside is %q, %v", got, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside has %v, %v", entries, err)
	}
	if err := root.Unpack(t.Context(), "/data", bytes.NewReader(archive(t, "root/made")), Unpacking{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Errorf("a link to / leads to the container's: %v", err)
	}
}

// TestRace is CVE-2018-15664: the container exchanges a directory for a link to
// the outside, over and over, while its files are read and written.
func TestRace(t *testing.T) {
	root, dir, outside := tree(t)
	spot, aside := filepath.Join(dir, "spot"), filepath.Join(dir, "aside")
	if err := os.Mkdir(spot, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(spot, "passwd"), []byte("inside\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, aside); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, spot, unix.AT_FDCWD, aside, unix.RENAME_EXCHANGE)
			}
		}
	})
	defer swaps.Wait()
	defer close(stop)
	read, wrote := 0, 0
	for range 3000 {
		var b bytes.Buffer
		if root.Pack(t.Context(), &b, "/spot/passwd", Packing{Follow: true}) == nil {
			read++
			if bytes.Contains(b.Bytes(), []byte("outside")) {
				t.Fatal("read a file of the machine")
			}
		}
		if root.Unpack(t.Context(), "/spot", bytes.NewReader(archive(t, "d/", "d/evil", "evil")), Unpacking{}) == nil {
			wrote++
		}
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the machine has %v, %v", entries, err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "passwd")); err != nil || string(got) != "outside\n" {
		t.Errorf("outside is %q, %v", got, err)
	}
	if read == 0 || wrote == 0 {
		t.Errorf("%d reads and %d writes went through: this shows nothing", read, wrote)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "root")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = root.Unpack(t.Context(), "/", bytes.NewReader(data), Unpacking{})
		if entries, err := os.ReadDir(base); err != nil || len(entries) != 1 {
			t.Errorf("beside the root there is %v, %v", entries, err)
		}
	})
}

// TestLookupsEnd although the container goes on renaming.
func TestLookupsEnd(t *testing.T) {
	n := 0
	_, err := ignoringEINTR(func() (int, error) { n++; return -1, unix.EAGAIN })
	if !errors.Is(err, unix.EAGAIN) || n != maxLookups+1 {
		t.Errorf("%d lookups, %v", n, err)
	}
}
