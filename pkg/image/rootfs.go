package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// RootfsOptions say how to mount a rootfs.
type RootfsOptions struct {
	// ReadOnly mounts the layers of the image without the writable one, as
	// image volumes need it. Nothing can be changed through such a mount, by
	// anybody. A container whose root shall be read-only is no case for it:
	// its runtime has to make mount points first.
	ReadOnly bool
	// UserNS shows the files of the image with the owners that the user
	// namespace maps theirs to, and gives a writable layer to its root. The
	// kernel and the file system must be able to, see ProbeIDMap.
	UserNS *linux.UserNS
	// Label is the SELinux label of all files; "" leaves them theirs.
	Label string
	// Durable lets programs sync what they write: the container is to outlive the
	// boot.
	Durable bool
}

// rootfsRecord is kept in rootfs/<id>/rootfs.json and holds the layers while
// it exists, whatever becomes of the image.
type rootfsRecord struct {
	Image  digest.Digest   `json:"image"`
	Layers []digest.Digest `json:"layers"` // lowest first, as in the config
}

// rootfsEntry is a rootfs in memory.
type rootfsEntry struct {
	record rootfsRecord
	refs   []digest.Digest
	// volumes are the images mounted for the container beside it.
	volumes []volumeRecord
	broken  error
	made    chan struct{} // closed when PrepareRootfs is through with it
	failed  error         // what PrepareRootfs then says
}

const (
	rootfsFile  = "rootfs.json"
	rootfsUpper = "upper"
	rootfsWork  = "work"
)

func (s *Store) rootfsDir(id string) string { return s.path(dirRootfs, id) }

// PrepareRootfs makes the writable layer of a container on top of an image,
// given by ID, and holds the image's layers until RemoveRootfs. The mode and
// owner of the container's root directory are those that the image says. It
// does not mount. Doing it again for the same image is a success.
func (s *Store) PrepareRootfs(ctx context.Context, containerID, imageID string) error {
	if !validRootfsID(containerID) {
		return fmt.Errorf("rootfs id %.80q: %w", containerID, errdefs.ErrInvalidArgument)
	}
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return err
	}
	entry, first, err := s.enterRootfs(containerID, imageID)
	if err != nil {
		return err
	}
	if !first {
		select {
		case <-entry.made:
			return entry.failed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(entry.made)
	if err := s.makeRootfs(ctx, containerID, entry.record); err != nil {
		entry.failed = errors.Join(fmt.Errorf("prepare rootfs %s: %w", containerID, err), os.RemoveAll(s.rootfsDir(containerID)))
		s.leaveRootfs(containerID)
		return entry.failed
	}
	s.usages.Add(containerID, filepath.Join(s.rootfsDir(containerID), rootfsUpper), &newUpper)
	return nil
}

// enterRootfs takes the references of a new rootfs, or finds the one that
// exists for the same image.
func (s *Store) enterRootfs(containerID, imageID string) (entry *rootfsEntry, first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.Resolve(imageID)
	if err != nil {
		return nil, false, err
	}
	if img.Artifact != nil {
		return nil, false, fmt.Errorf("%s is an artifact of type %.100q, which can be mounted but not run: %w", imageID, img.Artifact.Type, errdefs.ErrInvalidArgument)
	}
	if old := s.rootfses[containerID]; old != nil {
		if old.broken == nil && old.record.Image.String() == img.ID {
			return old, false, nil
		}
		return nil, false, fmt.Errorf("rootfs %s: %w", containerID, errdefs.ErrAlreadyExists)
	}
	entry = &rootfsEntry{record: rootfsRecord{Image: digest.Digest(img.ID), Layers: img.Layers}, made: make(chan struct{})}
	s.refRootfs(entry)
	s.rootfses[containerID] = entry
	return entry, true, nil
}

// leaveRootfs drops a rootfs from memory, with its references.
func (s *Store) leaveRootfs(containerID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.rootfses[containerID]
	if e == nil {
		return
	}
	delete(s.rootfses, containerID)
	s.usages.Remove(containerID)
	for _, d := range e.refs {
		s.unrefLayer(d, false)
	}
}

// makeRootfs writes the record last: a directory without one is a leftover.
// None of it is synced, because a container does not outlive the boot.
func (s *Store) makeRootfs(ctx context.Context, id string, r rootfsRecord) error {
	dir := s.rootfsDir(id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	upper := filepath.Join(dir, rootfsUpper)
	if err := os.Mkdir(upper, 0o755); err != nil {
		return err
	}
	// This mode is that of the container's /, and must not depend on a umask.
	if err := os.Chmod(upper, 0o755); err != nil {
		return err
	}
	if err := s.inheritUpper(ctx, upper, r.Layers); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, rootfsWork), 0o700); err != nil {
		return err
	}
	return linux.SaveRecord(filepath.Join(dir, rootfsFile), r, linux.SurviveProcess)
}

// refRootfs takes a reference to each layer that is there. The caller holds
// s.mu.
func (s *Store) refRootfs(e *rootfsEntry) {
	for _, d := range uniqueDigests(e.record.Layers) {
		if l := s.layers[d]; l != nil {
			s.refLayer(d)
			e.refs = append(e.refs, d)
		} else {
			e.broken = errors.Join(e.broken, fmt.Errorf("layer %s is missing", d))
		}
	}
}

func uniqueDigests(ds []digest.Digest) []digest.Digest {
	ds = slices.Clone(ds)
	slices.Sort(ds)
	return slices.Compact(ds)
}

// MountRootfs mounts a rootfs on target, an existing directory. Where target
// is a mount point already that is a success, as after a restart of the
// daemon.
//
// The overlay is volatile unless it is to be durable: the kernel syncs none of
// it, because a container of kubelet's does not outlive the boot. Its mark of an unclean end, which would refuse
// the next mount, is taken away here, so that after a crash one can look at
// what is left; that may be less than was written.
func (s *Store) MountRootfs(ctx context.Context, containerID, target string, o RootfsOptions) error {
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !filepath.IsAbs(target) {
		return fmt.Errorf("mount point %q is not absolute: %w", target, errdefs.ErrInvalidArgument)
	}
	mounted, err := linux.IsMountPoint(target)
	if err != nil || mounted {
		return err
	}
	lower, err := s.lowerDirs(containerID)
	if err != nil {
		return err
	}
	m := overlay{lower: lower, target: target, label: o.Label, durable: o.Durable, legacy: s.legacyMount, scratch: filepath.Join(s.rootfsDir(containerID), "l")}
	if o.ReadOnly {
		// The kernel wants two layers where none is writable.
		m.lower = append(m.lower, s.path(dirFiller))
	} else {
		m.upper = filepath.Join(s.rootfsDir(containerID), rootfsUpper)
		m.work = filepath.Join(s.rootfsDir(containerID), rootfsWork)
		if err := os.RemoveAll(filepath.Join(m.work, "work", "incompat")); err != nil {
			return err
		}
	}
	mount := m.mount
	if o.UserNS != nil {
		mount = func() error { return s.mountMapped(ctx, containerID, &m, o.UserNS) }
	}
	if err := mount(); err != nil {
		return fmt.Errorf("mount rootfs %s: %w", containerID, err)
	}
	return nil
}

// lowerDirs lists the directories of a rootfs's layers, highest first. Those
// below a layer that hides them all are left out: overlayfs merges the roots of
// its layers whatever they are marked with.
func (s *Store) lowerDirs(id string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.rootfses[id]
	if e == nil {
		return nil, fmt.Errorf("rootfs %s: %w", id, errdefs.ErrNotFound)
	}
	if e.broken != nil {
		return nil, fmt.Errorf("rootfs %s: %w: %w", id, e.broken, errdefs.ErrFailedPrecondition)
	}
	return s.stackDirs(e.record.Layers), nil
}

// stackDirs is lowerDirs of layers that are all there. The caller holds s.mu
// and references to them.
func (s *Store) stackDirs(layers []digest.Digest) []string {
	var dirs []string
	for _, d := range stackOrder(layers) {
		dirs = append(dirs, filepath.Join(s.layerDir(d), layerDiff))
		if s.layers[d].opaqueRoot {
			break
		}
	}
	if len(dirs) == 0 {
		dirs = []string{s.path(dirEmpty)}
	}
	return dirs
}

// UnmountRootfs detaches what is mounted on target. Users of the mount keep it
// until they let go. A target that is no mount point is a success.
func (s *Store) UnmountRootfs(ctx context.Context, containerID, target string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := linux.Unmount(target)
	if s.idmap == idmapAttached && validRootfsID(containerID) {
		// Left by a crash in the middle of MountRootfs.
		err = errors.Join(err, linux.Unmount(s.mappedDir(containerID)))
	}
	if err != nil {
		return fmt.Errorf("unmount rootfs %s: %w", containerID, err)
	}
	return nil
}

// RemoveRootfs deletes the writable layer of a container, which must be
// unmounted, and lets go of the image's layers. The deletion itself happens
// behind the scenes. A rootfs that does not exist is a success.
func (s *Store) RemoveRootfs(ctx context.Context, containerID string) error {
	if !validRootfsID(containerID) {
		return fmt.Errorf("rootfs id %.80q: %w", containerID, errdefs.ErrInvalidArgument)
	}
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return err
	}
	mounted, err := linux.MountBelow(s.rootfsDir(containerID))
	if err != nil {
		return err
	}
	if mounted != "" {
		return fmt.Errorf("remove rootfs %s: still mounted at %s: %w", containerID, mounted, errdefs.ErrFailedPrecondition)
	}
	if err := s.toTrash(s.rootfsDir(containerID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove rootfs %s: %w", containerID, err)
	}
	s.leaveRootfs(containerID)
	s.wakeCollector()
	return nil
}

// ListRootfs names all that was prepared and not removed, sorted. Those whose
// record is broken are there too, because they can be removed.
func (s *Store) ListRootfs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.rootfses))
}

// recoverRootfses enters all rootfs directories. One without a record was
// never finished and goes; one with a broken record stays, to be removed by
// whoever knows the container.
func (s *Store) recoverRootfses(ctx context.Context) error {
	ids, err := linux.RecordIDs(s.path(dirRootfs))
	if err != nil {
		return err
	}
	for _, id := range ids {
		r, _, err := linux.LoadRecord[rootfsRecord](filepath.Join(s.rootfsDir(id), rootfsFile))
		if errors.Is(err, fs.ErrNotExist) {
			if err := s.toTrash(s.rootfsDir(id)); err != nil {
				return err
			}
			continue
		}
		entry := &rootfsEntry{record: r, broken: err, made: make(chan struct{})}
		close(entry.made)
		if err == nil {
			s.refRootfs(entry)
			s.recoverVolumes(ctx, id, entry)
		}
		if entry.broken != nil {
			klog.FromContext(ctx).Error(entry.broken, "Rootfs cannot be mounted any more", "containerID", id)
		}
		s.rootfses[id] = entry
		s.usages.Add(id, filepath.Join(s.rootfsDir(id), rootfsUpper), nil)
	}
	return nil
}

// validRootfsID keeps ids inside of their directory.
func validRootfsID(id string) bool {
	const allowed = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."
	return id != "" && len(id) <= 255 && !strings.HasPrefix(id, ".") &&
		!strings.ContainsFunc(id, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
}
