package linux

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-01347000 r-xp 00000000 08:01 42      /usr/bin/cri node (deleted)
Size:              15644 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01347000-02503000 r--p 00f47000 08:01 42      /usr/bin/cri node (deleted)
Anonymous:             0 kB
02503000-02504000 r--p 02103000 08:01 42      /usr/bin/cri node (deleted)
Anonymous:             4 kB
VmFlags: rd mr mw me
02504000-025ca000 rw-p 02104000 08:01 42      /usr/bin/cri node (deleted)
Anonymous:             0 kB
025ca000-025cb000 r--p 00000000 08:01 43      /usr/bin/other
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0   [anon: Go: heap]
Anonymous:          2048 kB
`
	got, err := cleanMappings(strings.NewReader(smaps), "/usr/bin/cri node (deleted)")
	if want := []mapping{{0x400000, 0x1347000}, {0x1347000, 0x2503000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
	if _, err := cleanMappings(strings.NewReader("nonsense r--p 0 08:01 42 /x\n"), "/x"); err == nil {
		t.Error("a mapping without addresses is taken")
	}
}

// present counts the pages of a mapping that the kernel has mapped.
func present(t *testing.T, m mapping) (pages int) {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	size := uintptr(os.Getpagesize())
	entries := make([]byte, (m.end-m.start)/size*8)
	if _, err := f.ReadAt(entries, int64(m.start/size*8)); err != nil {
		t.Fatal(err)
	}
	for entry := range slices.Chunk(entries, 8) {
		if entry[7]&0x80 != 0 {
			pages++
		}
	}
	return pages
}

func TestMapExactly(t *testing.T) {
	const length = 8 << 20
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, make([]byte, length), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, length, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(data) }()
	start := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	m := mapping{start, start + length}
	touch := func() {
		for _, at := range []int{0, 1 << 20, 5 << 20, length - 1} {
			if data[at] != 0 {
				t.Error("the file has changed")
			}
		}
	}
	touch()
	t.Logf("by itself the kernel maps %d pages for 4", present(t, m))
	err = mapExactly([]mapping{m})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := release([]mapping{m}); err != nil {
		t.Fatal(err)
	}
	if got := present(t, m); got != 0 {
		t.Errorf("%d pages mapped after release", got)
	}
	touch()
	if got := present(t, m); got != 4 {
		t.Errorf("%d pages mapped, 4 touched", got)
	}
}

func TestMapExactlyNeedsPages(t *testing.T) {
	if err := mapExactly([]mapping{{1, 2}}); err == nil {
		t.Error("no error for a mapping that is none")
	}
}
