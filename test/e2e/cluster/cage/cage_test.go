package cage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// modeVariable makes this program one that uses a cage, as its value says.
const modeVariable = "CAGE_TEST"

func TestMain(m *testing.M) {
	Serve()
	mode := os.Getenv(modeVariable)
	if mode == "" {
		os.Exit(m.Run())
	}
	dir, err := Inside()
	code := 0
	switch {
	case err != nil:
	case dir != "":
		err = inside(dir, mode)
	default:
		code, err = Run(Options{Dir: os.Getenv(modeVariable + "_DIR"), Keep: mode == "keep"})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(code)
}

// inside leaves behind what a cluster would: an orphan, with a cgroup and a mount.
func inside(dir, mode string) error {
	sleeper := exec.Command("sleep", "1000")
	sleeper.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := sleeper.Start(); err != nil {
		return err
	}
	if err := moveIn(dir, sleeper.Process.Pid); err != nil {
		return err
	}
	if err := MakeCgroup(Cgroup(dir) + "/pods/one"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "some.log"), []byte("said\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "lib"), "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "up"), nil, 0o644); err != nil {
		return err
	}
	if mode == "hang" {
		select {}
	}
	return nil
}

// start runs this program as one that uses a cage.
func start(t *testing.T, mode, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), modeVariable+"="+mode, modeVariable+"_DIR="+dir)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func needRoot(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("it takes root")
	}
	dir, err := os.MkdirTemp("", "cage") //nolint:usetesting // its name is that of the cgroup
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// left says what is there of a cage.
func left(dir string) ([]string, error) {
	processes, err := usage.InCgroup(Cgroup(dir))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, p := range processes {
		found = append(found, "process "+p.Cmdline())
	}
	roots, err := invariant.CgroupMounts()
	if err != nil {
		return nil, err
	}
	for _, r := range roots {
		if _, err := os.Stat(filepath.Join(r, Cgroup(dir))); err == nil {
			found = append(found, "cgroup in "+r)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".log") {
			found = append(found, "file "+path)
		}
		return nil
	})
	return found, err
}

func wantNothingLeft(t *testing.T, dir string) {
	t.Helper()
	found, err := invariant.Settle(10*time.Second, func() ([]string, error) { return left(dir) })
	if err != nil || len(found) > 0 {
		t.Errorf("left of the cage: %q: %v", found, err)
	}
}

func TestCageGoesWithItsProgram(t *testing.T) {
	dir := needRoot(t)
	if err := start(t, "end", dir).Wait(); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, dir)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there after a run that went well: %v", err)
	}
}

func TestCageGoesWhenItsProgramIsKilled(t *testing.T) {
	dir := needRoot(t)
	cmd := start(t, "hang", dir)
	_, err := invariant.Settle(10*time.Second, func() ([]string, error) {
		_, err := os.Stat(filepath.Join(dir, "up"))
		return nil, err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "some.log")); err != nil {
		t.Errorf("a log has not been kept: %v", err)
	}
}

func TestKeptCageStaysUntilItIsTakenDown(t *testing.T) {
	dir := needRoot(t)
	for range 2 {
		if err := start(t, "keep", dir).Wait(); err != nil {
			t.Error(err)
		}
		found, err := left(dir)
		if err != nil || len(found) == 0 {
			t.Errorf("nothing is left of a cage to keep: %v", err)
		}
	}
	if err := Down(dir); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, dir)
}
