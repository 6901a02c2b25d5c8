package spec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// workingDir picks the request's directory, else the image's, else the root.
func workingDir(requested, image string) (string, error) {
	switch {
	case requested != "":
		return checkWorkingDir("config.working_dir", requested)
	case image != "":
		return checkWorkingDir("image config.WorkingDir", image)
	}
	return "/", nil
}

// checkWorkingDir refuses directories of the kernel: /proc/self/fd/7 was once a
// directory of the host that the runtime had left open (CVE-2024-21626).
func checkWorkingDir(field, dir string) (string, error) {
	if err := checkPathText(field, dir); err != nil {
		return "", err
	}
	if !path.IsAbs(dir) {
		return "", invalid(field, "%s is not absolute", quote(dir))
	}
	if hasDotDot(dir) {
		return "", invalid(field, "%s has a .. in it", quote(dir))
	}
	dir = path.Clean(dir)
	if isKernelPath(dir) {
		return "", invalid(field, "%s is in a file system of the kernel", quote(dir))
	}
	return dir, nil
}

// makeWorkingDir makes the working directory if it is missing, inside the root
// file system. One on a mount is the mount's business. The last part made gets
// mode 0755 whatever the umask is, and so does each before it.
func (b *builder) makeWorkingDir(ctx context.Context) error {
	cwd := b.spec.Process.Cwd
	for _, m := range b.spec.Mounts {
		if isAtOrBelow(cwd, m.Destination) {
			return nil
		}
	}
	field := "config.working_dir"
	root, err := os.OpenFile(b.in.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root file system: %w", err)
	}
	base, err := handlePath(root)
	if err != nil {
		return errors.Join(err, root.Close())
	}
	dir, ids := "", b.in.Pod.UserNS.Mappings()
	for part := range strings.SplitSeq(strings.TrimPrefix(cwd, "/"), "/") {
		if part == "" {
			continue
		}
		dir += "/" + part
		if err = ctx.Err(); err != nil {
			break
		}
		if err = ensureDir(root, base, dir, ids); err != nil {
			err = invalid(field, "%s: %v", quote(cwd), err)
			break
		}
	}
	return errors.Join(err, root.Close())
}

// ensureDir opens or makes one directory whose parent exists, and looks where
// it really is: a link in the image may lead to a directory of the kernel.
func ensureDir(root *os.File, base, dir string, ids *linux.IDMappings) error {
	handle, err := pathrs.OpenatInRoot(root, dir)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		handle, err = pathrs.MkdirAllHandle(root, dir, 0o755)
	}
	if err != nil {
		return err
	}
	return errors.Join(checkDir(handle, base, made, ids), handle.Close())
}

func checkDir(handle *os.File, base string, made bool, ids *linux.IDMappings) error {
	info, err := handle.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return unix.ENOTDIR
	}
	real, err := handlePath(handle)
	if err != nil {
		return err
	}
	if inside, ok := strings.CutPrefix(real, strings.TrimSuffix(base, "/")); !ok || isKernelPath(inside) {
		return errors.New("leads into a file system of the kernel")
	}
	if !made {
		return nil
	}
	f, err := pathrs.Reopen(handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	if ids != nil {
		err = f.Chown(ids.Root())
	}
	return errors.Join(err, f.Chmod(0o755), f.Close())
}

// handlePath is where the kernel says an open file is.
func handlePath(f *os.File) (string, error) {
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}
