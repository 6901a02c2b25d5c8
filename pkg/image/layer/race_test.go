package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSwappedDirectory has somebody replace directories by symlinks all the
// time (CVE-2025-47290). The contract forbids that anyone can; nothing may get
// out even so.
func TestSwappedDirectory(t *testing.T) {
	const files = 3000
	var entries []entry
	for i := range files {
		// A different parent each time, or the cache would resolve just once.
		entries = append(entries, dir(fmt.Sprintf("a/%d", i)), file(fmt.Sprintf("a/%d/secret", i), "x"),
			file(fmt.Sprintf("a/secret/%d", i), "x"), hardlink(fmt.Sprintf("h%d", i), "a/secret"), file("a/.wh.dir", ""), dir("a"))
	}
	data := pack(t, entries...)
	s := newSandbox(t)
	ctx, cancel := context.WithCancel(t.Context())
	var swapper sync.WaitGroup
	swaps := 0
	swapper.Go(func() {
		a, b := filepath.Join(s.layer, "a"), filepath.Join(s.layer, "b")
		for ctx.Err() == nil {
			if _, err := os.Lstat(a); err != nil {
				continue
			}
			_ = os.Symlink(s.outside, b)
			if unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) == nil {
				swaps++
			}
		}
	})
	failed := 0
	for range 200 {
		if _, err := s.apply(ctx, data, Options{}); err != nil {
			failed++
		}
		s.clear(t)
	}
	cancel()
	swapper.Wait()
	t.Logf("%d swaps, %d of 200 failed", swaps, failed)
	if swaps == 0 {
		t.Error("no swap succeeded")
	}
	if after := fingerprint(t, s.outside); after != s.before {
		t.Fatalf("layer changed files outside:\nbefore:\n%safter:\n%s", s.before, after)
	}
}

// clear empties the layer directory for the next try.
func (s *sandbox) clear(t *testing.T) {
	t.Helper()
	names, err := os.ReadDir(s.layer)
	must(t, err)
	for _, name := range names {
		_ = os.RemoveAll(filepath.Join(s.layer, name.Name())) // the swapper may win; the next Apply then refuses
	}
}
