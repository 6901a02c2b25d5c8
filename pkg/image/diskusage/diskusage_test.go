package diskusage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, size int) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, make([]byte, size), 0o600))
}

// age makes every directory old enough to be relied on.
func age(t *testing.T) {
	t.Helper()
	<-time.After(settled + 20*time.Millisecond)
}

func look(t *testing.T, dir string, before *tree) (*tree, Usage) {
	t.Helper()
	after, u, err := measure(t.Context(), dir, before, &pace{began: time.Now()})
	must(t, err)
	return after, u
}

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a/b/file"), 10000)
	write(t, filepath.Join(dir, "a/other"), 1)
	must(t, os.Link(filepath.Join(dir, "a/other"), filepath.Join(dir, "a/b/again")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "link")))
	age(t)
	before, u := look(t, dir, nil)
	if u.Inodes != 6 || u.Bytes < 4096*2 {
		t.Errorf("full walk: %+v", u)
	}
	if _, again := look(t, dir, before); again != u {
		t.Errorf("pass without a change: %+v, was %+v", again, u)
	}

	// What appears, goes and moves is found.
	write(t, filepath.Join(dir, "a/b/c/new"), 50000)
	must(t, os.Remove(filepath.Join(dir, "link")))
	must(t, os.Rename(filepath.Join(dir, "a/b"), filepath.Join(dir, "moved")))
	after, got := look(t, dir, before)
	_, want := look(t, dir, nil)
	if got != want || want.Inodes != 7 {
		t.Errorf("pass after changes: %+v, a full walk says %+v", got, want)
	}
	// They were changed just now, and may be again within the same tick.
	write(t, filepath.Join(dir, "moved/c/next"), 50000)
	_, got = look(t, dir, after)
	if _, want = look(t, dir, nil); got != want {
		t.Errorf("pass right after changes: %+v, a full walk says %+v", got, want)
	}
}

// TestNewLink: the directory of the first name does not change.
func TestNewLink(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a/file"), 10000)
	must(t, os.Mkdir(filepath.Join(dir, "b"), 0o755))
	age(t)
	before, _ := look(t, dir, nil)
	must(t, os.Link(filepath.Join(dir, "a/file"), filepath.Join(dir, "b/file")))
	if after, _ := look(t, dir, before); after != nil {
		t.Error("a file with new names can be counted twice, so nothing is left to go on from")
	}
}

// TestHostile: paths that are too long for the kernel, names that lead out.
func TestHostile(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	write(t, filepath.Join(outside, "big"), 1<<20)
	must(t, os.Symlink(outside, filepath.Join(dir, "out")))
	name := strings.Repeat("d", 200)
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range 60 { // 12 000 bytes
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
	if _, u := look(t, dir, nil); u.Inodes != 62 || u.Bytes > 1<<20 {
		t.Errorf("%+v", u)
	}
	if fd, err := openDir(int(mustOpen(t, dir).Fd()), "out"); err == nil {
		_ = unix.Close(fd)
		t.Error("a symbolic link was followed")
	}
	if fd, err := openSteps(int(mustOpen(t, dir).Fd()), "out"); err == nil {
		_ = unix.Close(fd)
		t.Error("a symbolic link was followed without openat2")
	}
}

func mustOpen(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestMeasureEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := measure(ctx, t.TempDir(), nil, &pace{began: time.Now()}); err == nil {
		t.Error("a walk goes on after the end")
	}
}

// run starts an Accountant.
func run(t *testing.T) *Accountant {
	t.Helper()
	a := New()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return a
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("not in time: " + what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestAccountant(t *testing.T) {
	a := run(t)
	dir := t.TempDir()
	if _, _, ok := a.Get("x", ""); ok {
		t.Error("the usage of an unknown layer")
	}
	write(t, filepath.Join(dir, "f"), 10000)
	a.Add("x", dir, nil)
	wait(t, "a first figure that nobody has asked for", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.layers["x"].known
	})
	u, at, ok := a.Get("x", "")
	if !ok || u.Inodes != 2 || time.Since(at) > time.Minute {
		t.Errorf("%+v as of %v, %v", u, at, ok)
	}
	// Without a mark every look is a full one.
	write(t, filepath.Join(dir, "f"), 90000)
	wait(t, "what was written", func() bool { u, _, _ := a.Get("x", ""); return u.Bytes > 90000 })
	a.Remove("x")
	if _, _, ok := a.Get("x", ""); ok {
		t.Error("the usage of a removed layer")
	}
}

// overlay mounts one, and returns its upper directory and its root.
func overlay(t *testing.T) (upper, root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "root"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	write(t, filepath.Join(dir, "lower/file"), 100000)
	upper, root = filepath.Join(dir, "upper"), filepath.Join(dir, "root")
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s,workdir=%s/work", dir, upper, dir)
	must(t, unix.Mount("overlay", root, "overlay", 0, options))
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	return upper, root
}

func (a *Accountant) layerOf(id string) layer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return *a.layers[id]
}

// TestWritten: after one full walk nothing is walked in full until a file is
// written to, in place, and then the figure is right again.
func TestWritten(t *testing.T) {
	a := run(t)
	upper, root := overlay(t)
	a.Add("x", upper, &Usage{Bytes: 4096, Inodes: 1})
	write(t, filepath.Join(root, "log"), 100)
	wait(t, "a mark", func() bool { a.Get("x", root); l := a.layerOf("x"); return l.known && !l.written })
	first := a.layerOf("x").fullAt
	must(t, os.Mkdir(filepath.Join(root, "dir"), 0o755))
	wait(t, "a pass", func() bool { u, _, _ := a.Get("x", root); return u.Inodes == 3 })
	if l := a.layerOf("x"); l.fullAt != first {
		t.Error("a directory was made and everything walked")
	}
	f, err := os.OpenFile(filepath.Join(root, "log"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.Write(make([]byte, 300000))
	must(t, err)
	wait(t, "growth in place", func() bool { u, _, _ := a.Get("x", root); return u.Bytes > 300000 })
	must(t, f.Close())
	must(t, os.Chmod(filepath.Join(root, "file"), 0o640)) // copied up
	wait(t, "a copy up", func() bool { u, _, _ := a.Get("x", root); return u.Bytes > 400000 })
}

// TestQuiet: a layer in which nothing happens is looked at ever more seldom, until
// a file is written to.
func TestQuiet(t *testing.T) {
	a := New() // nobody runs it
	defer a.marks.close()
	upper, root := overlay(t)
	a.Add("x", upper, nil)
	a.Get("x", root)
	l := a.layers["x"]
	a.look(t.Context(), "x", l)
	for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
		a.look(t.Context(), "x", l)
		if l := a.layerOf("x"); l.quiet != want*time.Second || l.next.Sub(l.looked) < want*time.Second {
			t.Errorf("quiet for %v, next in %v, want %v seconds", l.quiet, l.next.Sub(l.looked), want)
		}
	}
	write(t, filepath.Join(root, "f"), 1)
	wait(t, "the write is told", func() bool { return a.layerOf("x").told })
	if l := a.layerOf("x"); l.quiet != 0 || l.next.Sub(l.looked) > 10*time.Second {
		t.Errorf("after a write: quiet for %v, next in %v", l.quiet, l.next.Sub(l.looked))
	}
}

// TestMarkHoldsNothing: neither a mark nor an event keeps a mount.
func TestMarkHoldsNothing(t *testing.T) {
	told := make(chan []string, 1)
	m := newMarks(func(ids []string) { told <- ids })
	defer m.close()
	_, root := overlay(t)
	m.add("x", root)
	if !m.stands("x") {
		t.Fatal("no mark")
	}
	must(t, unix.Unmount(root, 0))
	m.add("host", root) // no overlay any more: the file system of the host
	if m.stands("host") {
		t.Error("the file system of the host is marked")
	}
	m.drop("x")

	_, root = overlay(t)
	m.add("y", root)
	write(t, filepath.Join(root, "f"), 1)
	if ids := <-told; len(ids) != 1 || ids[0] != "y" || m.stands("y") {
		t.Errorf("told of %v", ids)
	}
	must(t, unix.Unmount(root, 0))
}

// TestShared: more overlays than groups, and none left at the kernel.
func TestShared(t *testing.T) {
	told := make(chan []string, 64)
	m := newMarks(func(ids []string) { told <- ids })
	_, first := overlay(t)
	m.add("first", first)
	m.mu.Lock()
	for len(m.groups) < maxGroups {
		g, err := m.newGroupLocked()
		must(t, err)
		g.ids = append(g.ids, "taken", "too")
	}
	m.mu.Unlock()
	_, second := overlay(t)
	m.add("second", second)
	write(t, filepath.Join(second, "f"), 1)
	if ids := <-told; len(ids) != 2 {
		t.Errorf("told of %v, want all of the group", ids)
	}
	m.close()
	m.add("third", second)
	if m.stands("third") {
		t.Error("a mark after close")
	}
}

// TestLarge: a large layer is walked without taking a processor for itself.
func TestLarge(t *testing.T) {
	dir := t.TempDir()
	for d := range 40 {
		must(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(d)), 0o755))
		for i := range 500 {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(d), fmt.Sprint(i)), nil, 0o600))
		}
	}
	age(t)
	p := &pace{began: time.Now()}
	began := time.Now()
	before, u, err := measure(t.Context(), dir, nil, p)
	must(t, err)
	if u.Inodes != 40*500+41 {
		t.Errorf("%+v", u)
	}
	if wall := time.Since(began); p.busy > slice && wall < 2*p.busy {
		t.Errorf("busy for %v of %v", p.busy, wall)
	}
	p = &pace{began: time.Now()}
	if _, again, err := measure(t.Context(), dir, before, p); err != nil || again != u {
		t.Errorf("%+v, %v", again, err)
	}
	t.Logf("a pass over 20000 files in 40 directories took %v", p.spent())
}
