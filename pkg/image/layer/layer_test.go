package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func lstat(t *testing.T, elem ...string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(elem...), &st); err != nil {
		t.Fatalf("lstat %s: %v", filepath.Join(elem...), err)
	}
	return st
}

func TestMetadata(t *testing.T) {
	s := newSandbox(t)
	set := func(uid, gid int, mode int64, age time.Duration) func(*tar.Header) {
		return func(h *tar.Header) { h.Uid, h.Gid, h.Mode, h.ModTime = uid, gid, mode, testTime.Add(-age) }
	}
	entries := []entry{
		dir("./").with(set(5, 6, 0o751, time.Hour)),
		dir("sgid").with(set(1, 2, 0o2775, 2*time.Hour)),
		file("sgid/suid", "x").with(set(1000, 1001, 0o4755, time.Minute)),
		file("sgid/root", "x").with(set(0, 0, 0o640, time.Minute)), // not the directory's group
		file("sgid/none", "x").with(set(1<<32-2, 0, 0, time.Minute)),
		symlink("link", "sgid/none").with(set(7, 8, 0o777, 3*time.Hour)),
		node(tar.TypeFifo, "fifo", 0, 0).with(set(9, 10, 0o1622, 4*time.Hour)),
		node(tar.TypeChar, "null", 1, 3).with(set(9, 10, 0o666, 4*time.Hour)),
		file("implied/deep/f", "x").with(func(h *tar.Header) { h.Mode = 0o100600 }),
		// Later entries in a directory must not show in its time, nor must the
		// removal of one.
		hardlink("sgid/suid2", "sgid/suid").with(set(0, 0, 0o600, 0)),
		file("sgid/none", "y").with(set(0, 0, 0o600, 0)),
		dir("sgid/sub"),
	}
	for i := range 2 * maxOpen { // more than the cache holds
		entries = append(entries, dir(fmt.Sprintf("many/%d", i)).with(set(0, 0, 0o755, time.Hour)))
	}
	for i := range 2 * maxOpen {
		entries = append(entries, file(fmt.Sprintf("many/%d/f", i), ""))
	}
	_, err := s.apply(t.Context(), pack(t, entries...), Options{})
	must(t, err)
	s.check(t)

	for _, want := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
		age      time.Duration
	}{
		{".", unix.S_IFDIR | 0o751, 5, 6, time.Hour},
		{"sgid", unix.S_IFDIR | 0o2775, 1, 2, 2 * time.Hour},
		{"sgid/suid", unix.S_IFREG | 0o4755, 1000, 1001, time.Minute},
		{"sgid/root", unix.S_IFREG | 0o640, 0, 0, time.Minute},
		{"sgid/suid2", unix.S_IFREG | 0o4755, 1000, 1001, time.Minute},
		{"sgid/none", unix.S_IFREG | 0o600, 0, 0, 0},
		{"sgid/sub", unix.S_IFDIR | 0o755, 0, 0, 0},
		{"link", unix.S_IFLNK | 0o777, 7, 8, 3 * time.Hour},
		{"fifo", unix.S_IFIFO | 0o1622, 9, 10, 4 * time.Hour},
		{"null", unix.S_IFCHR | 0o666, 9, 10, 4 * time.Hour},
		{"implied/deep/f", unix.S_IFREG | 0o600, 0, 0, 0},
		{"many/0", unix.S_IFDIR | 0o755, 0, 0, time.Hour},
		{fmt.Sprintf("many/%d", 2*maxOpen-1), unix.S_IFDIR | 0o755, 0, 0, time.Hour},
	} {
		st := lstat(t, s.layer, want.name)
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", want.name, st.Mode, st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(testTime.Add(-want.age)) {
			t.Errorf("%s: time %v, want %v", want.name, got, testTime.Add(-want.age))
		}
	}
	for _, name := range []string{"implied", "implied/deep"} {
		if st := lstat(t, s.layer, name); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s: mode %o owner %d:%d", name, st.Mode, st.Uid, st.Gid)
		}
	}
}

// A layer that does not mention its root has one that everybody can pass.
func TestRootNotListed(t *testing.T) {
	s := newSandbox(t)
	_, err := s.apply(t.Context(), pack(t, file("f", "x")), Options{})
	must(t, err)
	if st := lstat(t, s.layer); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("mode %o", st.Mode)
	}
}

func TestXattrs(t *testing.T) {
	s := newSandbox(t)
	// cap_net_raw=ep: VFS_CAP_REVISION_2 with the effective bit, capability 13.
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	hostile := map[string]string{
		"trusted.overlay.opaque": "y", "trusted.overlay.redirect": "/etc", "trusted.overlay.metacopy": "", "trusted.x": "x",
		"user.overlay.opaque": "y", "user.overlay.whiteout": "", "user.overlay.overlay.opaque": "y",
		"security.ima": "x", "security.evm": "x", "security.apparmor": "x", "system.posix_acl_access": "x", "unknown": "x", "": "x",
	}
	f, d := file("f", "x"), dir("d")
	f.Uid, f.Mode = 1000, 0o4755
	l, p := symlink("l", "f").xattr("user.k", "v"), node(tar.TypeFifo, "p", 0, 0).xattr("user.k", "v")
	for name, value := range hostile {
		if value == "" {
			value = "z" // PAX takes an empty value for a deletion
		}
		f, d, l = f.xattr(name, value), d.xattr(name, value), l.xattr(name, value)
	}
	f = f.xattr("user.k", "a\x01b").xattr(capabilityXattr, capability)
	d = d.xattr("user.k", "v").xattr(capabilityXattr, capability)
	// The link's entry has no attributes: it must not take the file's away.
	_, err := s.apply(t.Context(), pack(t, f, d, l, p, hardlink("f2", "f")), Options{})
	must(t, err)
	s.check(t)
	for name, want := range map[string]map[string]string{
		"f": {"user.k": "a\x01b", capabilityXattr: capability}, "f2": {"user.k": "a\x01b", capabilityXattr: capability},
		"d": {"user.k": "v"}, "l": {}, "p": {},
	} {
		if got := xattrs(t, filepath.Join(s.layer, name)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s has attributes %q, want %q", name, got, want)
		}
	}
	if st := lstat(t, s.layer, "f"); st.Mode&0o7777 != 0o4755 {
		t.Errorf("f has mode %o", st.Mode)
	}
}

func TestHoles(t *testing.T) {
	data := []byte(strings.Repeat("data", pageSize/4))
	zeros := func(pages int) []byte { return make([]byte, pages*pageSize) }
	for _, test := range []struct {
		name    string
		content []byte
		pages   int64
	}{
		{"empty", nil, 0},
		{"small zeros", make([]byte, 100), 1},
		{"one page of zeros", zeros(1), 0},
		{"only zeros", zeros(1000), 0},
		{"zeros and a bit", append(zeros(100), 0, 0), 1},
		{"hole first", append(zeros(200), data...), 1},
		{"hole last", append(bytes.Clone(data), zeros(200)...), 1},
		{"hole between", bytes.Join([][]byte{data, zeros(300), data, zeros(3), data[:7]}, nil), 3},
		{"zeros across a page", bytes.Join([][]byte{data[:100], zeros(1), data[:pageSize-100]}, nil), 2},
		{"no hole", bytes.Repeat(data, 150), 150},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSandbox(t)
			usage, err := s.apply(t.Context(), pack(t, file("f", string(test.content))), Options{})
			must(t, err)
			got, err := os.ReadFile(filepath.Join(s.layer, "f"))
			must(t, err)
			if !bytes.Equal(got, test.content) {
				t.Error("content differs")
			}
			if usage.Bytes != test.pages*pageSize {
				t.Errorf("usage %d pages, want %d", usage.Bytes/pageSize, test.pages)
			}
			if st := lstat(t, s.layer, "f"); st.Blocks*512 > test.pages*pageSize+pageSize {
				t.Errorf("file takes %d bytes, want %d", st.Blocks*512, test.pages*pageSize)
			}
		})
	}
}

// A file of 1 TiB in 2 KiB of tar, as `tar --sparse --format=gnu|pax` writes it,
// within limits that say this is fine, would take 1 TiB of reading; 64 MiB show
// that maps are understood.
func TestSparseMaps(t *testing.T) {
	const size = 64 << 20
	data := strings.Repeat("d", 512)
	pax10 := append(rawName("p", tar.TypeXHeader, paxRecord("GNU.sparse.major", "1")+paxRecord("GNU.sparse.minor", "0")+
		paxRecord("GNU.sparse.name", "f")+paxRecord("GNU.sparse.realsize", fmt.Sprint(size))),
		rawName("GNUSparseFile.0/f", tar.TypeReg, fmt.Sprintf("%-512s", fmt.Sprintf("1\n%d\n512\n", size/2))+data)...)
	pax10 = bytes.ReplaceAll(pax10, []byte("  "), []byte("\x00\x00"))
	gnu := rawName("f", tar.TypeGNUSparse, data)
	copy(gnu[257:], "ustar  \x00")
	copy(gnu[386:], fmt.Sprintf("%011o\x00%011o\x00", size/2, 512))
	copy(gnu[483:], fmt.Sprintf("%011o\x00", size))
	setChecksum(gnu)
	pax01 := append(rawName("p", tar.TypeXHeader, paxRecord("GNU.sparse.size", fmt.Sprint(size))+paxRecord("GNU.sparse.numblocks", "1")+
		paxRecord("GNU.sparse.map", fmt.Sprintf("%d,512", size/2))), rawName("f", tar.TypeReg, data)...)
	for name, archive := range map[string][]byte{"pax 1.0": fixChecksums(pax10), "old gnu": gnu, "pax 0.1": pax01} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			usage, err := s.apply(t.Context(), append(archive, endMark...), Options{})
			must(t, err)
			if st := lstat(t, s.layer, "f"); st.Size != size || st.Blocks*512 > 16<<10 || usage.Usage != (Usage{Bytes: pageSize, Inodes: 1}) {
				t.Errorf("size %d, %d blocks, usage %+v", st.Size, st.Blocks, usage)
			}
			f, err := os.Open(filepath.Join(s.layer, "f"))
			must(t, err)
			defer f.Close()
			got := make([]byte, 514)
			_, err = f.ReadAt(got, size/2-1)
			must(t, err)
			if string(got) != "\x00"+data+"\x00" {
				t.Error("data is not where it belongs")
			}
		})
	}
}

func TestUsage(t *testing.T) {
	s := newSandbox(t)
	usage, err := s.apply(t.Context(), pack(t, dir("/"), dir("d"), file("d/f", strings.Repeat("x", 5000)), hardlink("h", "d/f"), symlink("s", "d"),
		file("i/.wh.w", ""), file("r", strings.Repeat("x", 50000)), file("r", "x"), file("t/u/v", "x"), file("t", "")), Options{})
	must(t, err)
	// d, d/f, s, i, i/w, r, t; and the data of d/f, r, the directories d and i.
	if want := (Usage{Bytes: 2*pageSize + pageSize + 2*dirBytes, Inodes: 7}); usage.Usage != want {
		t.Errorf("usage %+v, want %+v", usage, want)
	}
	if got := inodes(t, s.layer); got != usage.Inodes {
		t.Errorf("%d inodes", got)
	}
}

func TestLimits(t *testing.T) {
	hundred := strings.Repeat("x", 100)
	for _, test := range []struct {
		name    string
		options Options
		good    []byte
		bad     []byte
	}{
		{"bytes", Options{MaxBytes: 200}, pack(t, file("a", hundred), file("b", hundred)), pack(t, file("a", hundred), file("b", hundred+"x"))},
		{"bytes of one name", Options{MaxBytes: 200}, pack(t, file("a", hundred), file("a", hundred)), pack(t, file("a", hundred), file("a", hundred+"x"))},
		{"bytes of whiteouts", Options{MaxBytes: 99}, pack(t, file(".wh.a", "")), pack(t, file(".wh.a", hundred))},
		{"entries", Options{MaxEntries: 2}, pack(t, file("a", ""), file("b", "")), pack(t, file("a", ""), file("b", ""), file("c", ""))},
		{"entries of one name", Options{MaxEntries: 2}, pack(t, file("a", ""), file("a", "")), pack(t, file("a", ""), file("a", ""), file("a", ""))},
		{"implied directories", Options{MaxEntries: 3}, pack(t, file("a/b/c", "")), pack(t, file("a/b/c/d", ""))},
		{"depth", Options{MaxDepth: 3}, pack(t, file("a/b/c", "")), pack(t, file("a/b/c/d", ""))},
		{"depth through symlinks", Options{MaxDepth: 3}, pack(t, dir("a/b/c"), symlink("s", "a/b/c"), file("s/f", "")),
			pack(t, dir("a/b/c"), symlink("s", "a/b/c"), file("s/d/f", ""))},
		{"header", Options{MaxHeaderBytes: 2048}, pack(t, file("a", "").xattr("user.k", hundred)), pack(t, file("a", "").xattr("user.k", strings.Repeat("x", 2048)))},
		{"trailer", Options{MaxTrailer: 100}, append(pack(t, file("a", "")), hundred...), append(pack(t, file("a", "")), hundred+"x"...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSandbox(t)
			_, err := s.apply(t.Context(), test.good, test.options)
			must(t, err)
			s = newSandbox(t)
			if _, err := s.apply(t.Context(), test.bad, test.options); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got error %v, want an invalid argument", err)
			}
			s.check(t)
		})
	}
}

// A truncated archive ends in an error wherever it is cut, unless that is
// between two entries, or in the padding there, which archive/tar takes for the
// end.
func TestTruncated(t *testing.T) {
	data := pack(t, dir("d"), file("d/f", strings.Repeat("x", 2*blockSize)), symlink("l", "d"))
	for cut := 1; cut < len(data)-len(endMark); cut += 37 {
		s := newSandbox(t)
		if _, err := s.apply(t.Context(), data[:cut], Options{}); cut%blockSize != 0 && !errdefs.IsInvalidArgument(err) {
			t.Fatalf("cut at %d: got error %v", cut, err)
		}
		s.check(t)
	}
}

// What goes wrong with the stream is not the layer's fault.
func TestStreamError(t *testing.T) {
	data := pack(t, file("f", strings.Repeat("x", 5000)), file("g", ""))
	for _, cause := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF, unix.EINVAL} {
		for cut := 0; cut < len(data); cut += 311 {
			s := newSandbox(t)
			_, err := Apply(t.Context(), io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(cause)), s.layer, Options{})
			if !errors.Is(err, cause) || errdefs.IsInvalidArgument(err) {
				t.Fatalf("cut at %d: got error %v, want %v alone", cut, err, cause)
			}
			s.check(t)
		}
	}
}

func TestReadsToEnd(t *testing.T) {
	s := newSandbox(t)
	data := append(pack(t, file("f", "x")), make([]byte, 100<<10)...)
	r := iotest.OneByteReader(bytes.NewReader(data))
	_, err := Apply(t.Context(), r, s.layer, Options{})
	must(t, err)
	if n, _ := r.Read(make([]byte, 1)); n != 0 {
		t.Error("bytes left in the stream")
	}
}

// cancelReader cancels after some reads and then goes on for ever.
type cancelReader struct {
	r      io.Reader
	left   atomic.Int64
	cancel context.CancelFunc
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.r.Read(p)
}

func TestCancel(t *testing.T) {
	endless := io.MultiReader(bytes.NewReader(rawEntry("f", tar.TypeReg, base256(1<<36), "")), zeroReader{})
	manyFiles := bytes.NewReader(bytes.Repeat(rawName("f", tar.TypeReg, "x"), 100_000))
	for name, r := range map[string]io.Reader{"in data": endless, "between entries": manyFiles} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			ctx, cancel := context.WithCancel(t.Context())
			c := &cancelReader{r: r, cancel: cancel}
			c.left.Store(10)
			_, err := Apply(ctx, c, s.layer, Options{})
			if !errors.Is(err, context.Canceled) || errdefs.IsInvalidArgument(err) {
				t.Errorf("got error %v", err)
			}
			if left := c.left.Load(); left < -2 {
				t.Errorf("%d reads after cancellation", -left)
			}
			s.check(t)
		})
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestDirectoryRefused(t *testing.T) {
	s := newSandbox(t)
	must(t, os.WriteFile(filepath.Join(s.layer, "f"), nil, 0o600))
	if _, err := s.apply(t.Context(), pack(t), Options{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("not empty: got error %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(t.TempDir(), link))
	if _, err := Apply(t.Context(), bytes.NewReader(nil), link, Options{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("symlink: got error %v", err)
	}
	if _, err := Apply(t.Context(), bytes.NewReader(nil), link+"x", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: got error %v", err)
	}
}

// Deep trees are made, and removed, without a fd for each of their levels
// staying open.
func TestDeep(t *testing.T) {
	s := newSandbox(t)
	deep := strings.Repeat("d/", DefaultMaxDepth-1) + "f"
	wide := strings.Repeat(strings.Repeat("n", 255)+"/", 15) + "f"
	usage, err := s.apply(t.Context(), pack(t, file(deep, "x"), file(wide, "y"), file("d", "z")), Options{})
	must(t, err)
	s.check(t)
	if got := inodes(t, s.layer); usage.Inodes != got || got != 17 {
		t.Errorf("usage %d inodes, %d found", usage.Inodes, got)
	}
}
