package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// healthy is a machine with nothing to complain of.
func healthy(t *testing.T) Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/filesystems":                  "nodev\tsysfs\nnodev\toverlay\n\text4\n",
		"proc/self/status":                  "Seccomp:\t0\n",
		"proc/sys/net/ipv4/ip_forward":      "1\n",
		"proc/sys/user/max_user_namespaces": "1000\n",
		"sys/fs/cgroup/cgroup.controllers":  "cpuset cpu io memory pids\n",
		"sys/kernel/security/lsm":           "capability,apparmor\n",
		"cni/bridge":                        "",
	} {
		write(t, root, name, text)
	}
	for _, name := range []string{"mnt", "net", "ipc", "uts", "pid", "cgroup", "user"} {
		write(t, root, "proc/self/ns/"+name, "")
	}
	return Host{
		Root: root, Release: "6.12.0-amd64", Data: "/data", Plugins: []string{filepath.Join(root, "cni")},
		Free: func(string) (int, int, error) { return 50, 50, nil },
		Look: func(name string) (string, error) { return "/usr/sbin/" + name, nil },
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExamine(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, h *Host)
		about string
		want  Verdict
	}{
		"nothing":            {func(*testing.T, *Host) {}, "", Good},
		"not root":           {func(_ *testing.T, h *Host) { h.UID = 1000 }, "user", Odd},
		"old kernel":         {func(_ *testing.T, h *Host) { h.Release = "4.19.0" }, "kernel", Bad},
		"no id-mapped tmpfs": {func(_ *testing.T, h *Host) { h.Release = "6.1.0-50-amd64" }, "kernel", Odd},
		"strange kernel":     {func(_ *testing.T, h *Host) { h.Release = "unknown" }, "kernel", Odd},
		"no overlayfs":       {func(t *testing.T, h *Host) { write(t, h.Root, "proc/filesystems", "\text4\n") }, "overlayfs", Bad},
		"no user namespaces": {func(t *testing.T, h *Host) { write(t, h.Root, "proc/sys/user/max_user_namespaces", "0\n") }, "namespaces", Odd},
		"no memory limits":   {func(t *testing.T, h *Host) { write(t, h.Root, "sys/fs/cgroup/cgroup.controllers", "cpu io pids\n") }, "cgroups", Odd},
		"no cgroups":         {func(_ *testing.T, h *Host) { _ = os.RemoveAll(filepath.Join(h.Root, "sys/fs")) }, "cgroups", Bad},
		"no seccomp":         {func(t *testing.T, h *Host) { write(t, h.Root, "proc/self/status", "Name:\n") }, "seccomp", Odd},
		"no security module": {func(t *testing.T, h *Host) { write(t, h.Root, "sys/kernel/security/lsm", "capability\n") }, "security module", Odd},
		"no runtime":         {func(_ *testing.T, h *Host) { h.Look = func(string) (string, error) { return "", errors.New("no") } }, "OCI runtime", Bad},
		"no forwarding":      {func(t *testing.T, h *Host) { write(t, h.Root, "proc/sys/net/ipv4/ip_forward", "0\n") }, "forwarding", Odd},
		"no plugins":         {func(_ *testing.T, h *Host) { h.Plugins = []string{"/nowhere"} }, "CNI plugins", Odd},
		"full disk":          {func(_ *testing.T, h *Host) { h.Free = func(string) (int, int, error) { return 2, 50, nil } }, "disk", Bad},
		"nearly full disk":   {func(_ *testing.T, h *Host) { h.Free = func(string) (int, int, error) { return 12, 50, nil } }, "disk", Odd},
		"many files":         {func(_ *testing.T, h *Host) { h.Free = func(string) (int, int, error) { return 50, 1, nil } }, "disk", Odd},
	} {
		t.Run(name, func(t *testing.T) {
			h := healthy(t)
			test.spoil(t, &h)
			found := Good
			for _, f := range h.Examine() {
				if f.Verdict == Good {
					continue
				}
				if f.Advice == "" {
					t.Errorf("%s: no advice", f.About)
				}
				if f.About == test.about {
					found = f.Verdict
				} else if name == "nothing" {
					t.Errorf("complained of %s: %s", f.About, f.Found)
				}
			}
			if found != test.want {
				t.Errorf("got %s, want %s", found, test.want)
			}
		})
	}
}
