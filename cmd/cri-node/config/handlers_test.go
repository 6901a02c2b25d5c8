package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// runtimeScript makes an executable that exits with code.
func runtimeScript(t *testing.T, dir, name, code string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho version 1\nexit "+code+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestResolveHandlers(t *testing.T) {
	exe, other := t.TempDir(), t.TempDir()
	crun := runtimeScript(t, exe, "crun", "0")
	runc := runtimeScript(t, exe, "runc", "0")
	runtimeScript(t, other, "runc", "0")
	kata := runtimeScript(t, other, "kata", "0")
	t.Setenv("PATH", other+":/usr/bin:/bin:relative")

	t.Run("built in ones, beside the executable first", func(t *testing.T) {
		got, name, err := Default().ResolveHandlers(exe)
		if err != nil {
			t.Fatal(err)
		}
		if name != "crun" || got["crun"].Path != crun || got["runc"].Path != runc || len(got) != 2 {
			t.Errorf("got %v, default %q", got, name)
		}
	})
	t.Run("configured", func(t *testing.T) {
		c := Default()
		c.Runtime.Handlers = map[string]Handler{"kata": {Path: kata, Root: "/run/cri-node/kata"}, "runc": {Root: "/run/cri-node/r"}}
		c.Runtime.DefaultHandler = "kata"
		got, name, err := c.ResolveHandlers(exe)
		if err != nil {
			t.Fatal(err)
		}
		if name != "kata" || got["kata"].Path != kata || got["runc"] != (Handler{Path: runc, Root: "/run/cri-node/r"}) || len(got) != 3 {
			t.Errorf("got %v, default %q", got, name)
		}
	})
	t.Run("configured but missing", func(t *testing.T) {
		path := filepath.Join(write(t, map[string]string{"c.toml": "\n[runtime.handlers.vm]\npath = '/nowhere/vm'"}), "c.toml")
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = c.ResolveHandlers(exe); err == nil || !strings.HasPrefix(err.Error(), path+":3: runtime.handlers.vm.path: ") {
			t.Errorf("error is %v, want it to name file, line and key", err)
		}
	})
}

func TestCrunThatDoesNotRunIsPassedOver(t *testing.T) {
	exe := t.TempDir()
	runtimeScript(t, exe, "crun", "127")
	t.Setenv("PATH", "")
	got, name, err := Default().ResolveHandlers(exe)
	if err != nil {
		if strings.Contains(err.Error(), "find an OCI runtime") {
			t.Skip("this machine has no OCI runtime")
		}
		t.Fatal(err)
	}
	if got[name].Path == filepath.Join(exe, "crun") {
		t.Errorf("%v, default %q: a crun that does not run was chosen", got, name)
	}
}

func TestDefaultHandlerThatIsMissing(t *testing.T) {
	exe := t.TempDir()
	runtimeScript(t, exe, "runc", "0")
	c := Default()
	c.Runtime.DefaultHandler = "crun"
	c.Runtime.Handlers = map[string]Handler{"crun": {Path: filepath.Join(exe, "no-crun")}}
	if _, _, err := c.ResolveHandlers(exe); err == nil {
		t.Error("accepted")
	}
}

func TestCNIPluginDirs(t *testing.T) {
	const usual = "/usr/local/lib/cri-node/cni"
	for exe, want := range map[string][]string{
		"/usr/local/bin":          {"/usr/local/bin/cni", usual},
		"/usr/bin":                {"/usr/bin/cni", "/usr/lib/cri-node/cni", usual},
		"/opt/cri-node/bin":       {"/opt/cri-node/bin/cni", "/opt/cri-node/lib/cri-node/cni", usual},
		"/usr/local/lib/cri-node": {usual, "/usr/local/lib/lib/cri-node/cni"},
	} {
		got := Default().CNIPluginDirs(exe)
		if want := append([]string{"/opt/cni/bin", "/usr/lib/cni"}, want...); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", exe, got, want)
		}
	}
}

func TestRuntimeBelowThePrefix(t *testing.T) {
	prefix := t.TempDir()
	library := filepath.Join(prefix, "lib", "cri-node")
	if err := os.MkdirAll(library, 0o755); err != nil {
		t.Fatal(err)
	}
	runtimeScript(t, library, "crun", "0")
	got, _, err := Default().ResolveHandlers(filepath.Join(prefix, "bin"))
	if err != nil || got["crun"].Path != filepath.Join(library, "crun") {
		t.Errorf("got %v, %v", got, err)
	}
}
