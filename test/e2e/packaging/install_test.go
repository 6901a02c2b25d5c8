package packaging

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// folder is the folder packaging of this repository.
func folder(t *testing.T) string {
	t.Helper()
	source, err := image.SourceDir()
	must(t, err)
	return filepath.Join(source, "..", "..", "packaging")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shared is what all tests run. TestMain finds it; nothing changes it later.
var shared node.Binaries

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "packaging")
	if err == nil {
		defer os.RemoveAll(dir)
		shared, err = node.FindBinaries(context.Background(), dir)
	}
	if err != nil {
		fmt.Println("prepare:", err)
		return 1
	}
	return m.Run()
}

// programs is a folder as `make build` and `make deps` leave it.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	link := func(from, to string) {
		from, err := filepath.EvalSymlinks(from)
		must(t, err)
		must(t, os.Symlink(from, filepath.Join(dir, to)))
	}
	link(shared.Node, "cri-node")
	link(shared.CNI, "cni")
	must(t, os.WriteFile(filepath.Join(dir, "runc"), []byte("#!/bin/sh\n"), 0o755))
	return dir
}

// install runs the script.
func install(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", append([]string{filepath.Join(folder(t), "install.sh")}, args...)...).CombinedOutput()
	return string(out), err
}

// tree is all files below a directory, by name.
func tree(t *testing.T, dir string) map[string]os.FileInfo {
	t.Helper()
	files := map[string]os.FileInfo{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		files[strings.TrimPrefix(path, dir)] = info
		return err
	}))
	return files
}

func TestInstall(t *testing.T) {
	bin, dest := programs(t), t.TempDir()
	args := []string{"--bin", bin, "--destdir", dest}
	out, err := install(t, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	first := tree(t, dest)
	for name, mode := range map[string]os.FileMode{
		"/usr/local/bin/cri-node":                                  0o755,
		"/usr/local/lib/cri-node/runc":                             0o755,
		"/usr/local/lib/cri-node/cni/bridge":                       0o755,
		"/usr/local/lib/cri-node/load-images":                      0o755,
		"/usr/local/lib/systemd/system/cri-node.service":           0o644,
		"/usr/local/lib/systemd/system/cri-node-images@.service":   0o644,
		"/usr/local/share/man/man1/cri-node-run.1":                 0o644,
		"/usr/local/share/bash-completion/completions/cri-node":    0o644,
		"/usr/local/share/zsh/site-functions/_cri-node":            0o644,
		"/usr/local/share/fish/vendor_completions.d/cri-node.fish": 0o644,
		"/etc/crictl.yaml":                                         0o644,
		"/etc/cri-node/config.toml":                                0o644,
	} {
		if info := first[name]; info == nil || info.Mode() != mode {
			t.Errorf("%s: %v, want mode %v", name, info, mode)
		}
	}

	out, err = install(t, args...)
	if err != nil || !strings.Contains(out, "already") || strings.Contains(out, "installed ") {
		t.Errorf("second run: %v: %s", err, out)
	}
	for name, info := range tree(t, dest) {
		if was := first[name]; was == nil || !os.SameFile(was, info) || !was.ModTime().Equal(info.ModTime()) {
			t.Errorf("second run has touched %s", name)
		}
	}

	// What belongs to the operator stays; what was damaged is mended.
	mine := filepath.Join(dest, "etc/cri-node/config.toml")
	must(t, os.WriteFile(mine, []byte("[log]\nlevel = 4\n"), 0o600))
	must(t, os.Remove(filepath.Join(dest, "usr/local/lib/cri-node/runc")))
	out, err = install(t, args...)
	if err != nil || !strings.Contains(out, "kept      /etc/cri-node/config.toml") || !strings.Contains(out, "installed /usr/local/lib/cri-node/runc") {
		t.Errorf("third run: %v: %s", err, out)
	}

	out, err = install(t, append(args, "--uninstall")...)
	if err != nil || !strings.Contains(out, "kept      /etc/cri-node/config.toml, which was changed") {
		t.Errorf("uninstall: %v: %s", err, out)
	}
	for name := range tree(t, dest) {
		if name != "/etc/cri-node/config.toml" {
			t.Errorf("left behind: %s", name)
		}
	}
	if out, err = install(t, append(args, "--uninstall")...); err == nil || !strings.Contains(out, "nothing of it") {
		t.Errorf("second uninstall: %v: %s", err, out)
	}
}

// TestInstallElsewhere is a prefix that systemd and the daemon do not know.
func TestInstallElsewhere(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "new")
	if out, err := install(t, "--bin", programs(t), "--destdir", dest, "--prefix", "/opt/runtime/"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unit, err := os.ReadFile(filepath.Join(dest, "etc/systemd/system/cri-node.service"))
	if err != nil || !strings.Contains(string(unit), "\nExecStart=/opt/runtime/bin/cri-node serve\n") {
		t.Errorf("%v: %s", err, unit)
	}
	// The program finds what was installed with it.
	cmd := exec.CommandContext(t.Context(), filepath.Join(dest, "opt/runtime/bin/cri-node"), "doctor", "--machine")
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), dest+"/opt/runtime/lib/cri-node/runc") {
		t.Errorf("doctor: %s", out)
	}
}

func TestInstallRefuses(t *testing.T) {
	bin, dest := programs(t), t.TempDir()
	broken := t.TempDir()
	must(t, os.WriteFile(filepath.Join(broken, "cri-node"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	for want, args := range map[string][]string{
		"run make build first":      {"--bin", t.TempDir(), "--destdir", dest},
		"does not run":              {"--bin", broken, "--destdir", dest},
		"is no option":              {"--bin", bin, "--destdir", dest, "--everything"},
		"has to begin with /":       {"--bin", bin, "--destdir", "here"},
		"needs a directory":         {"--bin", bin, "--destdir"},
		"no place for it":           {"--bin", bin, "--destdir", dest, "--prefix", "/"},
		"--purge goes with":         {"--destdir", dest, "--purge"},
		"do not go with --destdir":  {"--bin", bin, "--destdir", dest, "--start"},
		"nothing of it is below":    {"--destdir", dest, "--uninstall"},
		"nothing of it is below /n": {"--prefix", "/nowhere", "--uninstall"},
	} {
		if out, err := install(t, args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v: %s, want %s", args, err, out, want)
		}
	}
	if files := tree(t, dest); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestInstallNeedsRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	script, err := os.ReadFile(filepath.Join(folder(t), "install.sh"))
	must(t, err)
	cmd := exec.CommandContext(t.Context(), "bash", "-s")
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(string(script))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "needs root") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestUnits lets systemd read the units, with kind's additions and without.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	dest := t.TempDir()
	if out, err := install(t, "--bin", programs(t), "--destdir", dest); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	units := t.TempDir()
	for _, name := range []string{"cri-node.service", "cri-node-images@.service"} {
		b, err := os.ReadFile(filepath.Join(dest, "usr/local/lib/systemd/system", name))
		must(t, err)
		// It looks whether the programs are there.
		b = []byte(strings.ReplaceAll(string(b), "/usr/local/", dest+"/usr/local/"))
		must(t, os.WriteFile(filepath.Join(units, strings.Replace(name, "@", "@kind-images", 1)), b, 0o600))
	}
	verify := func(name string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--recursive-errors=no", filepath.Join(units, name)).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, "cri-node") && !strings.Contains(l, "kind.conf") })
		if err != nil || len(lines) > 0 {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	verify("cri-node.service")
	verify("cri-node-images@kind-images.service")
	b, err := os.ReadFile(filepath.Join(folder(t), "kind", "service.conf"))
	must(t, err)
	must(t, os.Mkdir(filepath.Join(units, "cri-node.service.d"), 0o755))
	must(t, os.WriteFile(filepath.Join(units, "cri-node.service.d", "kind.conf"), b, 0o600))
	verify("cri-node.service")
}
