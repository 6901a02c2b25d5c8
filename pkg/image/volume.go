package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Volume is an image, or an artifact, to mount for a container beside its root
// file system. Nobody can write through the mount, whatever they may do to it:
// the file system itself has no writable layer.
type Volume struct {
	// ImageID is the ID of the image or artifact.
	ImageID string
	// Target is the directory to mount on; it must exist.
	Target string
	// UserNS shows the owners of files as those that a user namespace maps them
	// to. The caller must know that ProbeIDMap succeeded. Nil maps nothing.
	UserNS *linux.UserNS
	// Label is the SELinux label of all files; "" leaves them theirs.
	Label string
}

// volumeRecord is what a container holds of an image that it has mounted.
type volumeRecord struct {
	Image  digest.Digest   `json:"image"`
	Layers []digest.Digest `json:"layers"`
}

const (
	volumesFile = "volumes.json"
	// volumeFiles, and the number of the volume, is the directory that has the
	// files of an artifact under their names.
	volumeFiles = "files-"
)

// MountVolume mounts an image or artifact for a container whose rootfs was
// prepared. Its layers are held, and what it needs on disk stays, until
// RemoveRootfs of the container; before that the caller unmounts the target.
func (s *Store) MountVolume(ctx context.Context, containerID string, v Volume) error {
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !filepath.IsAbs(v.Target) {
		return fmt.Errorf("mount point %q is not absolute: %w", v.Target, errdefs.ErrInvalidArgument)
	}
	p, err := s.enterVolume(containerID, v.ImageID)
	if err != nil {
		return fmt.Errorf("volume of image %.100s: %w", v.ImageID, err)
	}
	// What fails from here on stays referenced until the container goes, which
	// is what happens next.
	dir := s.rootfsDir(containerID)
	if err := linux.SaveRecord(filepath.Join(dir, volumesFile), p.all, linux.SurviveProcess); err != nil {
		return fmt.Errorf("save volumes of container %s: %w", containerID, err)
	}
	if p.artifact != nil {
		files := filepath.Join(dir, volumeFiles+strconv.Itoa(len(p.all)-1))
		if err := s.linkFiles(p.artifact, files); err != nil {
			return fmt.Errorf("lay out artifact %s: %w", v.ImageID, err)
		}
		p.lower = []string{files}
	}
	m := overlay{
		// The kernel wants two layers where none is writable.
		lower:  append(p.lower, s.path(dirFiller)),
		target: v.Target, label: v.Label, legacy: s.legacyMount, scratch: filepath.Join(dir, "l"),
	}
	mount := m.mount
	if v.UserNS != nil {
		mount = func() error { return s.mountMapped(ctx, containerID, &m, v.UserNS) }
	}
	if err := mount(); err != nil {
		return fmt.Errorf("mount image %s: %w", v.ImageID, err)
	}
	return nil
}

// planned is a volume on its way to being mounted.
type planned struct {
	all      []volumeRecord // of the container, this one last
	lower    []string       // of an image, highest first
	artifact *Artifact
}

// enterVolume takes the references of a volume.
func (s *Store) enterVolume(containerID, imageID string) (planned, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.rootfses[containerID]
	if e == nil {
		return planned{}, fmt.Errorf("rootfs %s: %w", containerID, errdefs.ErrNotFound)
	}
	img, err := s.Resolve(imageID)
	if err != nil {
		return planned{}, err
	}
	st := s.images[digest.Digest(img.ID)]
	if st == nil {
		return planned{}, fmt.Errorf("image %s: %w", imageID, errdefs.ErrNotFound)
	}
	for _, d := range uniqueDigests(st.record.Layers) {
		s.refLayer(d)
		e.refs = append(e.refs, d)
	}
	// A new slice each time: the last one may be being written.
	e.volumes = append(slices.Clip(e.volumes), volumeRecord{Image: st.record.ID, Layers: st.record.Layers})
	p := planned{all: e.volumes, artifact: img.Artifact}
	if img.Artifact == nil {
		p.lower = s.stackDirs(img.Layers)
	}
	return p, nil
}

// recoverVolumes takes the references that a container's volumes had before
// the store was opened. The mounts themselves did not go with the daemon.
func (s *Store) recoverVolumes(ctx context.Context, id string, e *rootfsEntry) {
	volumes, _, err := linux.LoadRecord[[]volumeRecord](filepath.Join(s.rootfsDir(id), volumesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Images that a container has mounted may be removed under it", "containerID", id)
		return
	}
	e.volumes = volumes
	for _, v := range volumes {
		for _, d := range uniqueDigests(v.Layers) {
			if s.layers[d] != nil {
				s.refLayer(d)
				e.refs = append(e.refs, d)
			}
		}
	}
}

// VolumePath resolves a path inside a mounted volume, following links within
// it and never out of it, and returns where on the host that is: a directory or
// a regular file.
func VolumePath(volume, path string) (_ string, err error) {
	handle, err := pathrs.OpenInRoot(volume, path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	info, err := handle.Stat()
	if err != nil {
		return "", err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%.100q is neither a directory nor a file: %w", path, errdefs.ErrInvalidArgument)
	}
	// The volume cannot change, so that the name stays right.
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(handle.Fd())))
}
