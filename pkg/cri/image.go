package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/image"
)

// PullImage fetches an image and returns its id.
func (s *Server) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image: is empty: %w", errdefs.ErrInvalidArgument)
	}
	if _, err := s.handler(r.GetImage().GetRuntimeHandler()); err != nil {
		return nil, fmt.Errorf("image.%w", err)
	}
	begin := time.Now()
	id, err := s.config.Images.Pull(ctx, image.PullRequest{
		Ref: ref, Auth: auth(r.GetAuth()), Namespace: r.GetSandboxConfig().GetMetadata().GetNamespace(),
	})
	s.config.Metrics.Pull(err, time.Since(begin))
	s.pullDone(r, begin, err)
	if err != nil {
		return nil, err // it names the image
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}

func auth(a *runtimeapi.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{
		Username:      a.GetUsername(),
		Password:      a.GetPassword(),
		Auth:          a.GetAuth(),
		ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(),
		RegistryToken: a.GetRegistryToken(),
	}
}

// ListImages lists all images, or the one a filter names.
func (s *Server) ListImages(_ context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	if ref := r.GetFilter().GetImage().GetImage(); ref != "" {
		img, err := s.findImage(ref)
		if err != nil || img == nil {
			return &runtimeapi.ListImagesResponse{}, err
		}
		return &runtimeapi.ListImagesResponse{Images: []*runtimeapi.Image{criImage(img, s.ownedImages())}}, nil
	}
	owned := s.ownedImages()
	list := s.config.Images.List()
	images := make([]*runtimeapi.Image, len(list))
	for i, img := range list {
		images[i] = criImage(img, owned)
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}

// findImage returns nil for an image that is not there, and for a reference
// that none could have.
func (s *Server) findImage(ref string) (*image.Image, error) {
	img, err := s.config.Images.Resolve(ref)
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return nil, nil //nolint:nilnil // CRI's way to say that there is none
	}
	return img, err
}

// ImageStatus describes one image; the answer is empty, and no error, for one
// that is not there.
func (s *Server) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image: is empty: %w", errdefs.ErrInvalidArgument)
	}
	img, err := s.findImage(ref)
	if err != nil || img == nil {
		return &runtimeapi.ImageStatusResponse{}, err
	}
	response := &runtimeapi.ImageStatusResponse{Image: criImage(img, s.ownedImages())}
	if r.GetVerbose() {
		info := map[string]any{"imageSpec": img.Config}
		if img.Artifact != nil {
			info["artifact"] = img.Artifact
		}
		response.Info, err = verbose(info)
	}
	return response, err
}

// ownedImages are the ids of the images of containers with an owner: kubelet,
// which does not know of these, would collect them as garbage.
func (s *Server) ownedImages() map[string]bool {
	owned := map[string]bool{}
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		if st.Owner == "" {
			continue
		}
		owned[st.ImageID] = true
		for _, m := range s.containerView(st).Config.GetMounts() {
			owned[m.GetImage().GetImageRef()] = true
		}
	}
	return owned
}

// criImage reports uid or username, never both (kubelet's runAsNonRoot).
func criImage(img *image.Image, owned map[string]bool) *runtimeapi.Image {
	i := &runtimeapi.Image{
		Id:          img.ID,
		RepoTags:    img.Tags,
		RepoDigests: img.Digests,
		Size:        img.Size,
		Pinned:      img.Pinned || owned[img.ID],
		Spec:        &runtimeapi.ImageSpec{Image: img.ID},
	}
	if img.UID != nil {
		i.Uid = &runtimeapi.Int64Value{Value: *img.UID}
	} else {
		i.Username = img.Username
	}
	return i
}

// RemoveImage removes an image with all its names. One that is not there is a
// success.
func (s *Server) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image: is empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.config.Images.Remove(ctx, ref); err != nil {
		return nil, fmt.Errorf("remove image %q: %w", ref, err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo says how much the images, and the writable layers on the same
// file system, take.
func (s *Server) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	usage, err := s.config.Images.Usage()
	if err != nil {
		return nil, fmt.Errorf("measure the image store: %w", err)
	}
	fs := &runtimeapi.FilesystemUsage{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: usage.Mountpoint},
		UsedBytes:  &runtimeapi.UInt64Value{Value: usage.UsedBytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: usage.InodesUsed},
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{fs},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{fs},
	}, nil
}
