package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// busyboxRootfs makes root file systems that have nothing but busybox.
type busyboxRootfs struct{ fakeRootfs }

func (*busyboxRootfs) MountRootfs(_ context.Context, _, target string, _ RootfsOptions) error {
	if _, err := os.Lstat(filepath.Join(target, "bin/tr")); err == nil {
		return nil // as mounted
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, dir := range []string{"bin", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(target, dir), 0o755); err != nil {
			return err
		}
	}
	err = os.WriteFile(filepath.Join(target, "bin/busybox"), b, 0o755)
	for _, name := range []string{"sh", "cat", "stty", "head", "sleep", "sha256sum", "tty", "grep", "tr"} {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(target, "bin", name)))
	}
	return err
}

// eachRuntime runs a test with every OCI runtime of the machine.
func eachRuntime(t *testing.T, test func(t *testing.T, m *Manager, handler string)) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip(err)
	}
	for handler, candidates := range map[string][]string{"runc": {os.Getenv("CRI_NODE_TEST_RUNC"), "runc"}, "crun": {"crun"}} {
		t.Run(handler, func(t *testing.T) {
			for _, candidate := range candidates {
				if path, err := exec.LookPath(candidate); err == nil {
					test(t, ociManager(t, handler, path), handler)
					return
				}
			}
			t.Skip("not on this machine")
		})
	}
}

// ociManager returns a manager with a monitor and one real OCI runtime.
func ociManager(t *testing.T, handler, path string) *Manager {
	t.Helper()
	dir := t.TempDir()
	_, err := os.Stat("/sys/fs/cgroup/unified")
	runtime, err := oci.Open(t.Context(), oci.Config{Handler: handler, Path: path, Root: filepath.Join(dir, "oci"), HideUnified: err == nil})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the containers are gone
		parents, _ := filepath.Glob("/sys/fs/cgroup/*/cri-node-runtime-test")
		for _, parent := range append(parents, "/sys/fs/cgroup/cri-node-runtime-test") {
			_ = os.Remove(parent)
		}
	})
	return managerOf(t, dir, &busyboxRootfs{}, runtime)
}

// stdioOptions are what a container's stdin and terminal are to be.
type stdioOptions struct{ stdin, once, tty bool }

// runningContainer starts a shell script in a container of its own.
func runningContainer(t *testing.T, m *Manager, handler, id, script string, stdio stdioOptions) *Container {
	t.Helper()
	c := waitingContainer(t, m, handler, id, script, stdio)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// waitingContainer is runningContainer before it is started.
func waitingContainer(t *testing.T, m *Manager, handler, id, script string, stdio stdioOptions) *Container {
	t.Helper()
	cgroup := filepath.Join("/cri-node-runtime-test", id)
	c, err := m.Prepare(t.Context(), Params{
		ID: id, Group: "g", Name: id, Handler: handler, ImageID: "i", Cgroup: cgroup, LogPath: filepath.Join(t.TempDir(), id+".log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), scriptOptions(c, script, stdio)); err != nil {
		t.Fatal(err)
	}
	return c
}

// scriptOptions make a container of a shell script.
func scriptOptions(c *Container, script string, stdio stdioOptions) CreateOptions {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
	}
	return CreateOptions{
		Stdin: stdio.stdin, StdinOnce: stdio.once,
		Spec: &specs.Spec{
			Version: "1.0.2", Root: &specs.Root{Path: c.RootfsPath()}, Mounts: mounts,
			Process: &specs.Process{Terminal: stdio.tty, Cwd: "/", Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}},
			Linux: &specs.Linux{
				CgroupsPath: c.Status().Cgroup,
				Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}},
			},
		},
	}
}

// logOf is the container's log.
func logOf(t *testing.T, c *Container) string {
	t.Helper()
	b, err := os.ReadFile(c.Status().LogPath)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func shell(script string) *specs.Process {
	return &specs.Process{Cwd: "/", Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}}
}
