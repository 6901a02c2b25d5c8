package apparmor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// fake is a machine with these files; a file's name ends its path.
func fake(t *testing.T, files map[string]string) *Host {
	t.Helper()
	h := &Host{root: t.TempDir(), parser: "/no/such/parser"}
	for name, text := range files {
		path := h.path(name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

const (
	enabled  = "/sys/module/apparmor/parameters/enabled"
	profiles = "/sys/kernel/security/apparmor/profiles"
)

func TestEnabled(t *testing.T) {
	for text, want := range map[string]bool{"Y\n": true, "N\n": false, "": false} {
		if got := fake(t, map[string]string{enabled: text}).Enabled(); got != want {
			t.Errorf("%q: enabled is %v", text, got)
		}
	}
	if fake(t, nil).Enabled() {
		t.Error("enabled without a module")
	}
}

func TestLoaded(t *testing.T) {
	h := fake(t, map[string]string{profiles: "docker-default (enforce)\nname (with) parens (complain)\n/usr/bin/man (enforce)\n"})
	for name, want := range map[string]bool{
		"docker-default": true, "name (with) parens": true, "/usr/bin/man": true,
		"docker": false, "docker-default (enforce)": false, "": false, "name": false,
	} {
		if got, err := h.Loaded(name); err != nil || got != want {
			t.Errorf("%q: loaded is %v, %v", name, got, err)
		}
	}
	if got, err := fake(t, nil).Loaded("x"); err != nil || got {
		t.Errorf("without securityfs: %v, %v", got, err)
	}
}

// The parser gets the whole profile, and its word is checked with the kernel.
func TestLoadDefault(t *testing.T) {
	h := fake(t, map[string]string{
		profiles:  "other (enforce)\n",
		"/parser": "#!/bin/sh\ncp \"$3\" \"$0.got\"\necho '" + DefaultProfile + " (enforce)' >> \"$0.list\"\n",
	})
	h.parser = h.path("/parser")
	dir := t.TempDir()
	if err := h.LoadDefault(t.Context(), dir); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("error is %v where the kernel does not list the profile", err)
	}
	if err := os.Rename(h.parser+".list", h.path(profiles)); err != nil {
		t.Fatal(err)
	}
	if err := h.LoadDefault(t.Context(), dir); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(h.parser + ".got")
	if err != nil || string(got) != h.profile() {
		t.Errorf("the parser got %q, %v", got, err)
	}
	h.parser = "/bin/false"
	if err := h.LoadDefault(t.Context(), dir); err == nil {
		t.Error("a parser that fails is no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What is included depends on what is there.
func TestProfile(t *testing.T) {
	bare := fake(t, nil).profile()
	if strings.Contains(bare, "include <") || strings.Contains(bare, "abi <") || !strings.Contains(bare, "@{PROC}=/proc/") {
		t.Errorf("profile of a bare machine is\n%s", bare)
	}
	full := fake(t, map[string]string{
		"/etc/apparmor.d/tunables/global": "", "/etc/apparmor.d/abstractions/base": "", "/etc/apparmor.d/abi/3.0": "",
	}).profile()
	for _, want := range []string{"abi <abi/3.0>,\ninclude <tunables/global>", "  include <abstractions/base>", "deny mount,", "profile " + DefaultProfile} {
		if !strings.Contains(full, want) {
			t.Errorf("profile lacks %q:\n%s", want, full)
		}
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		return
	}
	cmd := exec.CommandContext(t.Context(), parser, "--skip-kernel-load", "--skip-cache")
	cmd.Stdin = strings.NewReader(bare)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the parser refuses it: %v: %s", err, out)
	}
}
