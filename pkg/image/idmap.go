package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// idmapSupport is how layers can be mounted with other owners.
type idmapSupport int

const (
	idmapNone idmapSupport = iota
	// idmapDetached: overlayfs takes layers of a mount that is nowhere attached
	// (Linux 6.15).
	idmapDetached
	// idmapAttached: it takes only those it can find in the mount namespace,
	// which is how the kernel once mended CVE-2021-3732.
	idmapAttached
)

// rootfsMapped is where a mapped clone of the store is attached for a moment.
const rootfsMapped = "mapped"

func (s *Store) mappedDir(id string) string { return filepath.Join(s.rootfsDir(id), rootfsMapped) }

// ProbeIDMap finds out, with any user namespace, whether MountRootfs can map
// owners on the store's file system, by doing it. It must be called before the
// first MountRootfs with a user namespace, and by nobody at the same time.
func (s *Store) ProbeIDMap(ctx context.Context, userns *linux.UserNS) error {
	dir, err := os.MkdirTemp(s.path(dirStaging), "idmap-")
	if err != nil {
		return fmt.Errorf("probe id-mapped layers: %w", err)
	}
	err = s.probeIDMap(ctx, dir, userns)
	if err := errors.Join(err, linux.UnmountAll(dir), os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("probe id-mapped layers: %w", err)
	}
	return nil
}

func (s *Store) probeIDMap(ctx context.Context, dir string, userns *linux.UserNS) error {
	target, mapped := filepath.Join(dir, "target"), filepath.Join(dir, rootfsMapped)
	if err := errors.Join(os.Mkdir(target, 0o700), os.Mkdir(mapped, 0o700)); err != nil {
		return err
	}
	var errs []error
	// The better way comes first: a kernel that has only the other notes
	// "overlayfs: failed to clone lowerpath" in its log, once for each probe.
	for _, how := range []idmapSupport{idmapDetached, idmapAttached} {
		if err := ctx.Err(); err != nil {
			return err
		}
		o := overlay{lower: []string{s.path(dirEmpty), s.path(dirFiller)}, target: target, legacy: s.legacyMount, scratch: filepath.Join(dir, "l")}
		err := s.withMappedLayers(&o, userns, how, mapped)
		if err == nil {
			err = checkMapped(target, userns)
		}
		if err == nil {
			s.idmap = how
			return nil
		}
		errs = append(errs, err, linux.Unmount(target))
	}
	return errors.Join(errs...)
}

// checkMapped looks whether root's directory has become the other root's.
func checkMapped(target string, userns *linux.UserNS) error {
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	want, _ := userns.HostUID(0)
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != want {
		return fmt.Errorf("owner is %d, not %d", st.Uid, want)
	}
	return nil
}

// mountMapped mounts a rootfs for a user namespace.
func (s *Store) mountMapped(ctx context.Context, id string, o *overlay, userns *linux.UserNS) error {
	if s.idmap == idmapNone {
		return fmt.Errorf("layers cannot be mounted for a user namespace on this kernel and file system: %w", errdefs.ErrFailedPrecondition)
	}
	if o.upper != "" {
		if err := s.giveUpper(ctx, id, o.upper, userns); err != nil {
			return err
		}
	}
	dir := s.mappedDir(id)
	if s.idmap == idmapAttached {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return s.withMappedLayers(o, userns, s.idmap, dir)
}

// giveUpper makes a writable layer, and with it the root directory, belong to
// whom the user namespace maps the owner that the image says. It may be
// repeated.
func (s *Store) giveUpper(ctx context.Context, id, upper string, userns *linux.UserNS) error {
	layers, err := s.RootfsLayers(id)
	if err != nil {
		return err
	}
	if err := os.Lchown(upper, 0, 0); err != nil {
		return err
	}
	if err := s.inheritUpper(ctx, upper, layers); err != nil {
		return err
	}
	info, err := os.Lstat(upper)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("stat %s: no owner", upper)
	}
	uid, uidOK := userns.HostUID(st.Uid)
	gid, gidOK := userns.HostGID(st.Gid)
	if !uidOK || !gidOK {
		return fmt.Errorf("root directory of the image belongs to %d:%d, which the user namespace does not map: %w", st.Uid, st.Gid, errdefs.ErrInvalidArgument)
	}
	if err := os.Lchown(upper, int(uid), int(gid)); err != nil {
		return err
	}
	return os.Chmod(upper, info.Mode()) // a change of owner takes bits away
}

// withMappedLayers mounts o with layers out of one mapped clone of the whole
// store, not of one clone for each layer: these would fill the mount table of
// everybody. Overlayfs makes private clones of what it needs, so that the one
// goes when this returns.
func (s *Store) withMappedLayers(o *overlay, userns *linux.UserNS, how idmapSupport, dir string) (err error) {
	ns, err := os.Open(userns.Path)
	if err != nil {
		return fmt.Errorf("open user namespace: %w", err)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	tree, err := linux.CloneMapped(s.config.Root, ns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	base := "/proc/self/fd/" + strconv.Itoa(int(tree.Fd()))
	if how == idmapAttached {
		if err := attach(tree, dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, linux.Unmount(dir)) }()
		base = dir
	}
	mapped := *o
	mapped.lower = make([]string, len(o.lower))
	for i, l := range o.lower {
		below, ok := strings.CutPrefix(l, s.config.Root+"/")
		if !ok {
			return fmt.Errorf("layer %s is not in the store", l)
		}
		mapped.lower[i] = filepath.Join(base, below)
	}
	return mapped.mount()
}

// attach puts a detached mount at dir, without letting it propagate.
func attach(tree *os.File, dir string) error {
	private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &private); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	return nil
}
