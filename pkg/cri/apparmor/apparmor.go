package apparmor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultProfile is the name of the profile that LoadDefault loads.
const DefaultProfile = "cri-node-default"

// loadTimeout bounds a run of the parser, which compiles for a second at most.
const loadTimeout = 30 * time.Second

// Host is the machine's AppArmor.
type Host struct {
	// root is put before every path; "" but in tests.
	root string
	// parser is the program that loads profiles, found in PATH.
	parser string
}

// NewHost returns the machine's AppArmor, which it may lack.
func NewHost() *Host { return &Host{parser: "apparmor_parser"} }

func (h *Host) path(p string) string { return h.root + p }

// Enabled reports whether the kernel confines by AppArmor.
func (h *Host) Enabled() bool {
	b, err := os.ReadFile(h.path("/sys/module/apparmor/parameters/enabled"))
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

// Loaded looks for a profile in the kernel's list, which has one "name (mode)"
// a line.
func (h *Host) Loaded(name string) (loaded bool, err error) {
	f, err := os.Open(h.path("/sys/kernel/security/apparmor/profiles"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list AppArmor profiles: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if i := strings.LastIndex(lines.Text(), " ("); i >= 0 && lines.Text()[:i] == name {
			return true, nil
		}
	}
	return false, lines.Err()
}

// LoadDefault loads DefaultProfile, in the place of what an older version has
// loaded under its name. dir is for a temporary file.
func (h *Host) LoadDefault(ctx context.Context, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("load AppArmor profile %s: %w", DefaultProfile, err)
		}
	}()
	f, err := os.CreateTemp(dir, "apparmor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.WriteString(h.profile())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	// Without the cache, whose directory may not be ours to write.
	cmd := exec.CommandContext(ctx, h.parser, "--replace", "--skip-cache", f.Name())
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %.500s", err, strings.TrimSpace(string(out)))
	}
	loaded, err := h.Loaded(DefaultProfile)
	if err == nil && !loaded {
		err = fmt.Errorf("the kernel does not list it: %w", errdefs.ErrNotFound)
	}
	return err
}

// profile is the text of DefaultProfile. What it includes differs from one
// distribution to the next, and a file that is missing would fail it.
func (h *Host) profile() string {
	has := func(name string) bool {
		_, err := os.Stat(h.path(filepath.Join("/etc/apparmor.d", name)))
		return err == nil
	}
	var b strings.Builder
	if has("abi/3.0") {
		// Later ones mediate what these rules say nothing of.
		b.WriteString("abi <abi/3.0>,\n")
	}
	if has("tunables/global") {
		b.WriteString("include <tunables/global>\n")
	} else {
		b.WriteString("@{PROC}=/proc/\n")
	}
	b.WriteString("\nprofile " + DefaultProfile + " flags=(attach_disconnected,mediate_deleted) {\n")
	if has("abstractions/base") {
		b.WriteString("  include <abstractions/base>\n")
	}
	b.WriteString(defaultRules)
	return b.String()
}

// defaultRules allow what a container's namespaces, capabilities and cgroup
// contain, and keep it off the kernel's knobs, which they do not: no mounts, no
// writing to /proc but for the files of processes and the limits of shared
// memory, none to /sys but for cgroups, no memory of the kernel. Signals
// and traces stay among those that the profile confines; those outside who end
// and start containers may signal them.
const defaultRules = `
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer=cri-node,
  signal (send, receive) peer=` + DefaultProfile + `,
  ptrace (trace, read, tracedby, readby) peer=` + DefaultProfile + `,

  deny mount,

  deny @{PROC}/* w,
  deny @{PROC}/[^1-9s]*/** w,
  deny @{PROC}/s[^y]*/** w,
  deny @{PROC}/sy[^s]*/** w,
  deny @{PROC}/sys?*/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/k[^e]** w,
  deny @{PROC}/sys/kernel/[^s]** w,
  deny @{PROC}/sys/kernel/s[^h]** w,
  deny @{PROC}/sys/kernel/sh[^m]** w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`
