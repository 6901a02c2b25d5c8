package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/node/names"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/node/volumes"
)

// makeVolumes makes the volumes of a new container that are not there. While its
// record is there, nobody removes one.
func (s *Server) makeVolumes(_ context.Context, e *entry) error {
	s.volumeUse.RLock()
	defer s.volumeUse.RUnlock()
	mounts := slices.Clone(e.record().Volumes)
	for i, v := range mounts {
		had, err := s.volumes.Get(v.Name)
		if err == nil {
			mounts[i].Anonymous = had.Anonymous // it was another container's before
			continue
		}
		mounts[i].Made = true
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	// First said, then done, so that it can be undone.
	if err := s.update(e, func(r *record) { r.Volumes = mounts }); err != nil {
		return err
	}
	for i, v := range mounts {
		_, made, err := s.volumes.Create(volumes.Volume{Name: v.Name, Anonymous: v.Anonymous})
		if err != nil {
			return err
		}
		if made {
			s.Report("volume", "create", v.Name, v.Name, nil)
		}
		mounts[i].Made = made
	}
	return s.update(e, func(r *record) { r.Volumes = mounts })
}

// fillVolumes gives empty volumes what the image has in their place.
func (s *Server) fillVolumes(ctx context.Context, e *entry, p *plan) error {
	c, err := s.config.Containers.Get(e.id)
	if err != nil {
		return err
	}
	uid, gid := c.Status().UserNS.Mappings().Root()
	for i, v := range p.record.Volumes {
		if p.request.GetVolumes()[i].GetNoCopy() {
			continue
		}
		empty, err := s.volumes.Empty(v.Name)
		if err != nil {
			return err
		}
		if !empty {
			continue
		}
		fill := spec.Volume{Path: v.Path, Dir: s.volumes.Path(v.Name), UID: uid, GID: gid}
		if err := spec.PrepareVolumes(ctx, c.RootfsPath(), []spec.Volume{fill}); err != nil {
			return fmt.Errorf("volumes[%d]: %w", i, err)
		}
	}
	return nil
}

// users lists the containers that mount a volume.
func (s *Server) users(name string) []*entry {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	var list []*entry
	for _, e := range s.table.byID {
		if slices.ContainsFunc(e.record().Volumes, func(v mounted) bool { return v.Name == name }) {
			list = append(list, e)
		}
	}
	return list
}

// removeVolume removes a volume that nobody uses.
func (s *Server) removeVolume(name string) error {
	erase, err := s.takeVolume(name)
	if err != nil {
		return err
	}
	return erase()
}

// takeVolume is removeVolume up to the deleting of its files, for which no
// container that is made waits.
func (s *Server) takeVolume(name string) (erase func() error, err error) {
	s.volumeUse.Lock()
	defer s.volumeUse.Unlock()
	if users := s.users(name); len(users) > 0 {
		var by []string
		for _, e := range users {
			by = append(by, e.name())
		}
		slices.Sort(by)
		return nil, refused("volume %q is in use by %s: remove them first", name, strings.Join(by, ", "))
	}
	if _, err := s.volumes.Get(name); errdefs.IsNotFound(err) {
		return func() error { return nil }, nil // it is gone
	}
	if erase, err = s.volumes.Remove(name); err != nil {
		return nil, err
	}
	s.Report("volume", "destroy", name, name, nil)
	return erase, nil
}

// removeUnused removes a volume that was made for a container which is gone,
// unless others have found it meanwhile.
func (s *Server) removeUnused(name string) error {
	if err := s.removeVolume(name); !errdefs.IsFailedPrecondition(err) {
		return err
	}
	return nil
}

// CreateVolume makes a volume. One that is there already stays as it is.
func (s *system) CreateVolume(_ context.Context, r *nodev1.CreateVolumeRequest) (*nodev1.CreateVolumeResponse, error) {
	v := volumes.Volume{Name: r.GetName(), Labels: r.GetLabels(), Anonymous: r.GetName() == ""}
	if v.Anonymous {
		v.Name = volumes.NewName()
	} else if err := names.Validate("name", v.Name); err != nil {
		return nil, err
	}
	fill, err := volumeFiller(r)
	if err != nil {
		return nil, err
	}
	v, made, err := s.volumes.CreateFilled(v, fill)
	if err != nil {
		return nil, err
	}
	if made {
		s.Report("volume", "create", v.Name, v.Name, nil)
	} else if len(r.GetFiles()) > 0 {
		return nil, fmt.Errorf("volume %q exists already: %w", v.Name, errdefs.ErrAlreadyExists)
	}
	return &nodev1.CreateVolumeResponse{Volume: s.volumeMessage(v)}, nil
}

// maxMode has the permission bits of a file, and those beside them.
const maxMode = 0o7777

// volumeFiller makes what a new volume is to have.
func volumeFiller(r *nodev1.CreateVolumeRequest) (func(dir string) error, error) {
	if r.GetMode() > maxMode {
		return nil, invalid("mode: %#o is more than %#o", r.GetMode(), maxMode)
	}
	for i, f := range r.GetFiles() {
		switch {
		case !filepath.IsLocal(f.GetPath()) || filepath.Clean(f.GetPath()) == ".":
			return nil, invalid("files[%d].path: %q is no path below a volume", i, f.GetPath())
		case f.GetMode() > maxMode:
			return nil, invalid("files[%d].mode: %#o is more than %#o", i, f.GetMode(), maxMode)
		}
	}
	if r.GetMode() == 0 && len(r.GetFiles()) == 0 {
		return nil, nil
	}
	return func(dir string) error {
		for _, f := range r.GetFiles() {
			if err := writeVolumeFile(dir, f); err != nil {
				return err
			}
		}
		if r.GetMode() == 0 {
			return nil
		}
		return unix.Chmod(dir, r.GetMode())
	}, nil
}

// writeVolumeFile writes into a new volume that nobody else sees yet.
func writeVolumeFile(dir string, f *nodev1.VolumeFile) error {
	name := filepath.Join(dir, f.GetPath())
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { //nolint:gosec // containers' users read it
		return err
	}
	if err := os.WriteFile(name, f.GetContent(), 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chown(name, 0, int(f.GetGid())), unix.Chmod(name, f.GetMode()))
}

// ListVolumes lists all volumes by name.
func (s *system) ListVolumes(context.Context, *nodev1.ListVolumesRequest) (*nodev1.ListVolumesResponse, error) {
	r := &nodev1.ListVolumesResponse{}
	for _, v := range s.volumes.List() {
		r.Volumes = append(r.Volumes, s.volumeMessage(v))
	}
	return r, nil
}

// RemoveVolume removes a volume that no container has. With force, one that is
// not there is a success.
func (s *system) RemoveVolume(_ context.Context, r *nodev1.RemoveVolumeRequest) (*nodev1.RemoveVolumeResponse, error) {
	if _, err := s.volumes.Get(r.GetName()); errdefs.IsNotFound(err) {
		if r.GetForce() {
			return &nodev1.RemoveVolumeResponse{}, nil
		}
		return nil, notFound("no volume %q: \"cri-node volume ls\" lists those there are", r.GetName())
	}
	if err := s.removeVolume(r.GetName()); err != nil {
		return nil, err
	}
	return &nodev1.RemoveVolumeResponse{}, nil
}

func (s *Server) volumeMessage(v volumes.Volume) *nodev1.Volume {
	m := &nodev1.Volume{
		Name: v.Name, Path: s.volumes.Path(v.Name), Labels: v.Labels, CreatedAt: v.CreatedAt.UnixNano(), Anonymous: v.Anonymous,
	}
	for _, e := range s.users(v.Name) {
		m.Containers = append(m.Containers, e.id)
	}
	slices.Sort(m.Containers)
	return m
}
