package linux

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// WithoutUnified runs start on a thread whose mount namespace lacks the cgroup
// v2 tree of a hybrid machine, so that a process it forks does not see that
// tree: crun refuses hybrid machines. Everything else, mount propagation too,
// is as outside. start must fork on the thread it is called on, as
// os/exec.Cmd.Start does, and must not wait for the child.
func WithoutUnified(start func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread would not end with the goroutine, and /proc/self
			// would show its mounts for ever. Keep others off it meanwhile.
			result <- WithoutUnified(start)
			runtime.UnlockOSThread()
			return
		}
		// The thread is not unlocked: the Go runtime ends it with the goroutine,
		// and its mount namespace with it.
		result <- withoutUnified(start)
	}()
	return <-result
}

func withoutUnified(start func() error) error {
	if err := HideUnified(); err != nil {
		return err
	}
	return start()
}

// HideUnified moves the calling thread, which must be locked and not be the
// main one, to a mount namespace without the cgroup v2 tree of a hybrid
// machine. Only the mount above that tree is made private, so that the unmount
// stays in here; how all others propagate stays as it is, which containers with
// shared mounts need.
func HideUnified() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	err := unix.Mount("", CgroupRoot, "", unix.MS_PRIVATE, "")
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there
		return fmt.Errorf("make %s private: %w", CgroupRoot, err)
	}
	unified := filepath.Join(CgroupRoot, "unified")
	err = unix.Unmount(unified, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", unified, err)
	}
	return nil
}
