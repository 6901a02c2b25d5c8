package linux

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	for _, remove := range []func(string) error{RemoveAll, Discard} {
		if err := remove(dir); err == nil {
			t.Fatal("removed a tree with a mount in it")
		}
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
