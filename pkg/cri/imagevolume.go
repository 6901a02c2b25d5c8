package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// imageVolumes are the images that a container's mounts show, by the index of
// the mount.
type imageVolumes struct {
	paths map[int]string // on the host, of the sub path where there is one
	ids   map[int]string
}

// mountImages mounts the images that the request wants to see, each once. The
// mounts go with the container, also where the daemon dies before it is made.
func (s *Server) mountImages(ctx context.Context, c *runtime.Container, st *sandbox.Status, config *runtimeapi.ContainerConfig) (imageVolumes, error) {
	v := imageVolumes{paths: map[int]string{}, ids: map[int]string{}}
	mounted := map[string]string{} // image ID to directory
	for i, m := range config.GetMounts() {
		if m.GetImage() == nil {
			continue
		}
		field := fmt.Sprintf("config.mounts[%d]", i)
		img, err := s.config.Images.Resolve(m.GetImage().GetImage())
		if err != nil {
			return v, fmt.Errorf("%s.image.image: %w", field, err)
		}
		dir, ok := mounted[img.ID]
		if !ok {
			dir = filepath.Join(c.ImagesDir(), strconv.Itoa(len(mounted)))
			if err := s.mountImage(ctx, c.ID(), image.Volume{ImageID: img.ID, Target: dir, UserNS: userNS(st), Label: c.Status().MountLabel}); err != nil {
				return v, imageVolumeError(field+".image", err)
			}
			mounted[img.ID] = dir
		}
		v.ids[i], v.paths[i] = img.ID, dir
		if sub := m.GetImageSubPath(); sub != "" {
			if v.paths[i], err = image.VolumePath(dir, sub); err != nil {
				return v, imageVolumeError(field+".image_sub_path", err)
			}
		}
	}
	return v, nil
}

func (s *Server) mountImage(ctx context.Context, container string, v image.Volume) error {
	if err := os.MkdirAll(v.Target, 0o711); err != nil {
		return err
	}
	// A container that is renewed has it, unless the machine was restarted.
	if mounted, err := linux.IsMountPoint(v.Target); err != nil || mounted {
		return err
	}
	return s.config.Images.MountVolume(ctx, container, v)
}

// imageVolumeError begins with the word that kubelet looks for. It wraps no
// class: kubelet finds the word in errors of code Unknown only. One that says
// that the caller has left is no news about the image.
func imageVolumeError(field string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", field, err)
	}
	return fmt.Errorf("%w: %s: %w", crierrors.ErrImageVolumeMountFailed, field, err)
}

// report is the config as the container's status shows it: kubelet's garbage
// collection compares the image of a mount with the IDs of images, and whoever
// wrote a tag learns what was behind it.
func (v imageVolumes) report(config *runtimeapi.ContainerConfig) *runtimeapi.ContainerConfig {
	if len(v.ids) == 0 {
		return config
	}
	config = proto.CloneOf(config)
	for i, id := range v.ids {
		m := config.GetMounts()[i]
		if m.Image.UserSpecifiedImage == "" {
			m.Image.UserSpecifiedImage = m.Image.Image
		}
		m.Image.Image, m.Image.ImageRef = id, id
	}
	return config
}
