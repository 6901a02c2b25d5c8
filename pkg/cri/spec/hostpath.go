package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// resolveSource returns the real path of a mount's source. One that does not
// exist is made a directory: CRI asks for an error, but both other runtimes
// make it and pods rely on that.
func resolveSource(path string) (string, error) {
	path = filepath.Clean(path)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeHostDir(path); err != nil {
			return "", err
		}
	}
	return filepath.EvalSymlinks(path)
}

// makeHostDir is os.MkdirAll with mode 0755 whatever the umask is; that of a
// daemon would lock containers' users out.
func makeHostDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
		if err := makeHostDir(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

// mountTable reads the mount table when it is first asked for: most containers
// have no mount that propagates.
type mountTable struct{ mounts []*mountinfo.Info }

// mountPoint is what matters of a mount here.
type mountPoint struct {
	point         string
	shared, slave bool
}

// at finds the mount that a path, without symbolic links, is on.
func (t *mountTable) at(path string) (mountPoint, error) {
	if t.mounts == nil {
		mounts, err := mountinfo.GetMounts(nil)
		if err != nil {
			return mountPoint{}, fmt.Errorf("read mount table: %w", err)
		}
		t.mounts = mounts
	}
	var best *mountinfo.Info
	for _, m := range t.mounts {
		// Of mounts at one path the last one is on top.
		if isAtOrBelow(path, m.Mountpoint) && (best == nil || len(m.Mountpoint) >= len(best.Mountpoint)) {
			best = m
		}
	}
	if best == nil {
		return mountPoint{}, fmt.Errorf("find mount of %s: %w", path, fs.ErrNotExist)
	}
	optional := strings.Fields(best.Optional)
	has := func(prefix string) bool {
		return slices.ContainsFunc(optional, func(o string) bool { return strings.HasPrefix(o, prefix) })
	}
	return mountPoint{point: best.Mountpoint, shared: has("shared:"), slave: has("master:")}, nil
}

// procFiles are what runtimes let a mount replace below /proc.
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
	"/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// checkProcMount keeps /proc a proc file system: a runtime writes labels and
// sysctls there, and something else in its place has sent these elsewhere
// (CVE-2019-16884, CVE-2025-52881).
func checkProcMount(field, destination, source string) error {
	if !isAtOrBelow(destination, "/proc") || slices.Contains(procFiles, destination) {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(source, &st); err != nil {
		return invalid(field+".host_path", "stat file system of %s: %v", quote(source), err)
	}
	if destination == "/proc" && st.Type == unix.PROC_SUPER_MAGIC {
		return nil
	}
	return invalid(field+".container_path", "%s would replace a part of /proc", quote(destination))
}
