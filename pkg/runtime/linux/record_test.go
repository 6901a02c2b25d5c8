package linux

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

type body struct {
	Name string `json:"name"`
	N    int    `json:"n"`
}

func TestRecordRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	want := body{Name: "päd\n", N: 7}
	for _, durability := range []Durability{SurviveProcess, SurvivePower} {
		if err := SaveRecord(path, want, durability); err != nil {
			t.Fatal(err)
		}
		got, sameBoot, err := LoadRecord[body](path)
		if err != nil || got != want || !sameBoot {
			t.Fatalf("LoadRecord = %+v, %v, %v", got, sameBoot, err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("leftovers: %v, %v", entries, err)
	}
}

func TestRecordOfAnotherBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	if err := SaveRecord(path, body{N: 1}, SurviveProcess); err != nil {
		t.Fatal(err)
	}
	bootID := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(bootID, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CRI_NODE_BOOT_ID_PATH", bootID)
	got, sameBoot, err := LoadRecord[body](path)
	if err != nil || got.N != 1 || sameBoot {
		t.Fatalf("LoadRecord = %+v, %v, %v", got, sameBoot, err)
	}
}

// Every record that is cut or altered anywhere is broken, never half believed,
// and never taken for missing.
func TestRecordTornAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	if err := SaveRecord(path, body{Name: "abc", N: 42}, SurviveProcess); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, at int, doc []byte) {
		t.Helper()
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		got, _, err := LoadRecord[body](path)
		if err == nil && got != (body{Name: "abc", N: 42}) {
			t.Fatalf("%s at %d: believed %+v", what, at, got)
		}
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s at %d: taken for missing", what, at)
		}
		if err != nil && !errors.Is(err, ErrBroken) {
			t.Fatalf("%s at %d: %v", what, at, err)
		}
	}
	for i := range whole {
		check("cut", i, whole[:i])
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		check("flip", i, flipped)
	}
}

func TestMissingRecord(t *testing.T) {
	if _, _, err := LoadRecord[body](filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestDiscard(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "abc")
	for range 2 { // the second time it is not there, which is a success
		if err := Discard(dir); err != nil {
			t.Fatal(err)
		}
	}
	// What a crash in the middle of an earlier Discard left must not be in the way.
	for _, d := range []string{dir, filepath.Join(parent, trashPrefix+"abc", "half")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := Discard(dir); err != nil {
		t.Fatal(err)
	}
	if ids, err := RecordIDs(parent); err != nil || len(ids) != 0 {
		t.Fatalf("RecordIDs = %v, %v", ids, err)
	}
	if err := os.Mkdir(filepath.Join(parent, trashPrefix+"xyz"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := EmptyTrash(parent); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 0 {
		t.Fatalf("left: %v", entries)
	}
}

func TestSetAside(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "abc")
	if trash, err := SetAside(dir); err != nil || trash != "" {
		t.Errorf("nothing was set aside as %q, %v", trash, err)
	}
	seen := map[string]bool{}
	for range 2 { // the first one is not deleted yet when the second one goes
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		trash, err := SetAside(dir)
		if err != nil || seen[trash] || !IsTrash(filepath.Base(trash)) {
			t.Fatal(trash, err)
		}
		seen[trash] = true
		if _, err := os.Lstat(trash); err != nil {
			t.Error(err)
		}
	}
	if ids, err := RecordIDs(parent); err != nil || len(ids) != 0 {
		t.Errorf("RecordIDs = %v, %v", ids, err)
	}
	if err := EmptyTrash(parent); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// Deleting a tree must never reach through a mount.
func TestRemoveAllRefusesMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	source, dir := t.TempDir(), t.TempDir()
	kept := filepath.Join(source, "kept")
	target := filepath.Join(dir, "sub dir", "mnt")
	if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.MkdirAll(target, 0o700), Bind(source, target)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = UnmountAll(dir) })
	if is, err := IsMountPoint(target); err != nil || !is {
		t.Fatalf("IsMountPoint = %v, %v", is, err)
	}
	if point, err := MountBelow(dir); err != nil || point != target {
		t.Errorf("MountBelow = %q, %v", point, err)
	}
	for _, remove := range []func(string) error{Discard, RemoveAll} {
		if err := remove(dir); !errors.Is(err, unix.EBUSY) {
			t.Fatalf("removed a tree with a mount in it: %v", err)
		}
	}
	if err := RemoveAll(target); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removed a mount point: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Fatal(err)
	}
	// Stacked mounts all go.
	if err := errors.Join(Bind(source, target), UnmountAll(dir)); err != nil {
		t.Fatal(err)
	}
	if points, err := MountPoints(dir); err != nil || len(points) != 0 {
		t.Fatalf("MountPoints = %v, %v", points, err)
	}
	if err := Unmount(target); err != nil {
		t.Fatalf("unmount of what is not mounted: %v", err)
	}
}

// A file can be a mount point, too, and more files than are looked at one by one
// hide none.
func TestRemoveAllRefusesMountedFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	source, dir := filepath.Join(t.TempDir(), "kept"), t.TempDir()
	target := filepath.Join(dir, "sub", "file")
	err := errors.Join(os.WriteFile(source, []byte("data"), 0o600), os.Mkdir(filepath.Dir(target), 0o700), os.WriteFile(target, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if point, err := MountBelow(dir); err != nil || point != "" {
		t.Errorf("MountBelow = %q, %v", point, err)
	}
	if err := Bind(source, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = UnmountAll(dir) })
	for range 2 {
		if point, err := MountBelow(dir); err != nil || point != target {
			t.Errorf("MountBelow = %q, %v", point, err)
		}
		for i := range maxLooks {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := RemoveAll(dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("removed a mounted file: %v", err)
	}
	if data, err := os.ReadFile(source); err != nil || string(data) != "data" {
		t.Errorf("%q, %v", data, err)
	}
	if err := errors.Join(UnmountAll(dir), RemoveAll(dir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestRemoveAll(t *testing.T) {
	top := t.TempDir()
	dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
	if err := os.MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	for i := range 2*namesAtOnce + 1 {
		if err := os.WriteFile(filepath.Join(dir, "a", "b", strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir + "/", dir, file, filepath.Join(dir, "below", "nothing")} {
		if err := RemoveAll(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("followed a link: %v", err)
	}
}

func TestParseMountPoints(t *testing.T) {
	const mountinfo = `22 27 0:21 / /proc rw,relatime - proc proc rw
30 27 0:30 / /run/a rw shared:1 - tmpfs tmpfs rw
31 30 0:31 / /run/a/with\040space\134n rw - tmpfs tmpfs rw
32 30 0:32 / /run/ab rw - tmpfs tmpfs rw
33 30 0:33 / /run/a/x rw - overlay overlay rw
`
	got, err := parseMountPoints(bytes.NewReader([]byte(mountinfo)), "/run/a")
	want := []string{"/run/a/x", `/run/a/with space\n`, "/run/a"}
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %q, %v", got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("point %d is %q, want %q", i, got[i], want[i])
		}
	}
	if _, err := parseMountPoints(bytes.NewReader([]byte("1 2 3\n")), "/"); err == nil {
		t.Error("a line that is no mountinfo was taken")
	}
}

func TestIsMountPointOfNothing(t *testing.T) {
	if is, err := IsMountPoint(filepath.Join(t.TempDir(), "a", "b")); err != nil || is {
		t.Fatalf("IsMountPoint = %v, %v", is, err)
	}
	if err := Unmount("/proc/self/nothing"); err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
}
