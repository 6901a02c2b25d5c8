package compose

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// makeVolumes makes the volumes of a project that are not there.
func makeVolumes(ctx context.Context, n *client.Node, p *types.Project, r *report) error {
	answer, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(p.Volumes)) {
		name := volumeName(p, key)
		exists := slices.ContainsFunc(answer.GetVolumes(), func(v *nodev1.Volume) bool { return v.GetName() == name })
		switch v := p.Volumes[key]; {
		case exists:
			continue
		case bool(v.External):
			return fmt.Errorf("volume %s is external and does not exist: make it with \"cri-node volume create %s\"", key, name)
		case v.Driver != "" && v.Driver != "local":
			return fmt.Errorf("volume %s: driver %s is not supported", key, v.Driver)
		case len(v.DriverOpts) > 0:
			return fmt.Errorf("volume %s: driver_opts are not supported: mount the path itself", key)
		default:
			all := map[string]string{labelProject: p.Name, labelVolume: key}
			maps.Copy(all, v.Labels)
			if _, err := n.System.CreateVolume(ctx, &nodev1.CreateVolumeRequest{Name: name, Labels: all}); err != nil {
				return fmt.Errorf("create volume %s: %w", name, err)
			}
			r.line("Volume", name, "Created")
		}
	}
	return nil
}

// mounts adds the volumes of a service, those of the project under their names
// in the daemon.
func mounts(p *types.Project, s *types.ServiceConfig, r *nodev1.CreateRequest) error {
	for i, v := range s.Volumes {
		if err := mount(p, v, r); err != nil {
			return fmt.Errorf("volumes[%d] (%s): %w", i, v.Target, err)
		}
	}
	return nil
}

func mount(p *types.Project, v types.ServiceVolumeConfig, r *nodev1.CreateRequest) error {
	switch v.Type {
	case types.VolumeTypeBind:
		if v.Bind == nil || bool(v.Bind.CreateHostPath) {
			if _, err := os.Stat(v.Source); errors.Is(err, os.ErrNotExist) {
				if err := os.MkdirAll(v.Source, 0o755); err != nil {
					return fmt.Errorf("make the directory: %w", err)
				}
			}
		}
		bind := &runtimeapi.Mount{HostPath: v.Source, ContainerPath: filepath.Clean(v.Target), Readonly: v.ReadOnly}
		if v.Bind != nil {
			bind.SelinuxRelabel = v.Bind.SELinux != ""
			switch v.Bind.Propagation {
			case "rslave", "slave":
				bind.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
			case "rshared", "shared":
				bind.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
			}
		}
		r.Container.Mounts = append(r.Container.Mounts, bind)
	case types.VolumeTypeVolume:
		volume := &nodev1.VolumeMount{Path: v.Target, Readonly: v.ReadOnly}
		if v.Source != "" {
			volume.Name = volumeName(p, v.Source)
		}
		if v.Volume != nil {
			volume.NoCopy, volume.Subpath = v.Volume.NoCopy, v.Volume.Subpath
		}
		r.Volumes = append(r.Volumes, volume)
	case types.VolumeTypeTmpfs:
		tmpfs := &nodev1.Tmpfs{Path: v.Target}
		if v.Tmpfs != nil && v.Tmpfs.Size > 0 {
			tmpfs.Options = append(tmpfs.Options, fmt.Sprintf("size=%d", v.Tmpfs.Size))
		}
		if v.Tmpfs != nil && v.Tmpfs.Mode > 0 {
			tmpfs.Options = append(tmpfs.Options, fmt.Sprintf("mode=%o", v.Tmpfs.Mode))
		}
		r.Tmpfs = append(r.Tmpfs, tmpfs)
	case types.VolumeTypeImage:
		image := &runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: v.Source, UserSpecifiedImage: v.Source}, ContainerPath: v.Target, Readonly: true}
		if v.Image != nil {
			image.ImageSubPath = v.Image.SubPath
		}
		r.Container.Mounts = append(r.Container.Mounts, image)
	default:
		return fmt.Errorf("type %q is not supported", v.Type)
	}
	return nil
}

// volumeName is a volume of the project as the daemon knows it.
func volumeName(p *types.Project, key string) string {
	return cmp.Or(p.Volumes[key].Name, p.Name+"_"+key)
}

// imageVolumes makes an anonymous volume for each that the image declares and the
// service says nothing of: it outlives the container, so that the next one of the
// service finds what is in it.
func imageVolumes(r *nodev1.CreateRequest, paths []string) {
	taken := map[string]bool{}
	for _, m := range r.GetContainer().GetMounts() {
		taken[filepath.Clean(m.GetContainerPath())] = true
	}
	for _, v := range r.GetVolumes() {
		taken[filepath.Clean(v.GetPath())] = true
	}
	for _, t := range r.GetTmpfs() {
		taken[filepath.Clean(t.GetPath())] = true
	}
	for _, path := range paths {
		if path = filepath.Clean(path); filepath.IsAbs(path) && path != "/" && !taken[path] {
			taken[path] = true
			r.Volumes = append(r.Volumes, &nodev1.VolumeMount{Path: path})
		}
	}
}

// anonymousName is the length of the names that the daemon gives to volumes.
const anonymousName = 64

// inherit mounts the anonymous volumes of an earlier container of the service at
// their places.
func inherit(r *nodev1.CreateRequest, earlier []*nodev1.Mount) {
	for _, v := range r.GetVolumes() {
		i := slices.IndexFunc(earlier, func(m *nodev1.Mount) bool {
			return m.GetType() == "volume" && len(m.GetSource()) == anonymousName && m.GetDestination() == filepath.Clean(v.GetPath())
		})
		if v.GetName() == "" && i >= 0 {
			v.Name = earlier[i].GetSource()
		}
	}
}
