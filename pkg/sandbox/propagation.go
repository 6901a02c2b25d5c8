package sandbox

import (
	"bufio"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// containPropagation makes dir the root of a private mount where it lies on a
// shared one; see doc.go.
func containPropagation(dir string) error {
	shared, err := onSharedMount(dir)
	if err != nil || !shared {
		return err
	}
	// Mounts that are there already would disappear under the new one.
	if below, err := linux.MountPoints(dir); err != nil || len(below) > 0 {
		return err
	}
	return linux.Bind(dir, dir)
}

// releasePropagation undoes containPropagation where nothing needs it.
func releasePropagation(dir string) error {
	own, err := linux.IsMountPoint(dir)
	if err != nil || !own {
		return err
	}
	points, err := linux.MountPoints(dir)
	if err != nil || len(points) > 1 {
		return err
	}
	return linux.Unmount(dir)
}

// onSharedMount reports whether mounts made in dir would propagate to other
// mount namespaces.
func onSharedMount(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return false, &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	shared, err := isShared(bufio.NewScanner(f), st.Mnt_id)
	return shared, errors.Join(err, f.Close())
}

// isShared looks for the mount's "shared:N" among the optional fields, which
// start at the seventh and end with a lone "-": proc_pid_mountinfo(5).
func isShared(mountinfo *bufio.Scanner, id uint64) (bool, error) {
	mountinfo.Buffer(nil, 1<<20) // the options of an overlay can pass the default
	for mountinfo.Scan() {
		fields := strings.Fields(mountinfo.Text())
		if len(fields) < 7 || fields[0] != strconv.FormatUint(id, 10) {
			continue
		}
		for _, optional := range fields[6:] {
			if optional == "-" {
				return false, nil
			}
			if strings.HasPrefix(optional, "shared:") {
				return true, nil
			}
		}
	}
	return false, mountinfo.Err()
}
