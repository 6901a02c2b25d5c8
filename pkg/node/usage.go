package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// DiskUsage tells what takes room, and what of it could go.
func (s *system) DiskUsage(ctx context.Context, _ *nodev1.DiskUsageRequest) (*nodev1.DiskUsageResponse, error) {
	volumes, err := s.volumesUsage(ctx)
	if err != nil {
		return nil, err
	}
	cache := &nodev1.DiskUsageResponse_Kind{Kind: "build-cache"}
	if b := s.Server.builder.builds; b != nil {
		u, err := b.Usage(ctx)
		if err != nil {
			return nil, err
		}
		cache.Total, cache.Size, cache.Reclaimable = int32(u.Results+u.Mounts), u.Bytes, u.Bytes-u.InUse
	}
	return &nodev1.DiskUsageResponse{Kinds: []*nodev1.DiskUsageResponse_Kind{
		s.imagesUsage(), s.containersUsage(), volumes, cache,
	}}, nil
}

// imagesUsage counts a layer that several images have once.
func (s *Server) imagesUsage() *nodev1.DiskUsageResponse_Kind {
	kind := &nodev1.DiskUsageResponse_Kind{Kind: "images"}
	users := map[digest.Digest]int{} // how many images have a layer
	needed := map[digest.Digest]bool{}
	all := s.config.Images.List()
	for _, img := range all {
		for _, d := range img.Layers {
			users[d]++
		}
	}
	for _, img := range all {
		used := len(s.imageUsers(img.ID)) > 0
		item := &nodev1.DiskUsageResponse_Item{Id: img.ID, Name: imageTitle(img), Size: int64(img.Size), Used: used, CreatedAt: nanoseconds(img.PulledAt)}
		for _, d := range img.Layers {
			if users[d] > 1 {
				item.Shared += s.config.Images.LayerSize(d)
			}
			needed[d] = needed[d] || used
		}
		kind.Items = append(kind.Items, item)
		kind.Total++
		if used {
			kind.Active++
		}
	}
	for d := range users {
		size := s.config.Images.LayerSize(d)
		kind.Size += size
		if !needed[d] {
			kind.Reclaimable += size
		}
	}
	return kind
}

func imageTitle(img *image.Image) string {
	if len(img.Tags) > 0 {
		return familiar(img.Tags[0])
	}
	return "<none>"
}

func (s *Server) containersUsage() *nodev1.DiskUsageResponse_Kind {
	kind := &nodev1.DiskUsageResponse_Kind{Kind: "containers"}
	for _, c := range s.config.Containers.List() {
		t, ok := s.seen(c)
		if !ok {
			continue
		}
		st := c.Status()
		item := &nodev1.DiskUsageResponse_Item{Id: st.ID, Name: s.title(t), Used: st.State == runtime.Running, CreatedAt: nanoseconds(st.CreatedAt)}
		if usage, _, err := s.config.Images.RootfsUsage(st.ID, c.RootfsPath()); err == nil {
			item.Size = usage.Bytes
		}
		kind.Items = append(kind.Items, item)
		kind.Total++
		kind.Size += item.GetSize()
		switch {
		case item.GetUsed():
			kind.Active++
		case s.prunable(t):
			kind.Reclaimable += item.GetSize()
		}
	}
	return kind
}

func (s *Server) volumesUsage(ctx context.Context) (*nodev1.DiskUsageResponse_Kind, error) {
	kind := &nodev1.DiskUsageResponse_Kind{Kind: "volumes"}
	for _, v := range s.volumes.List() {
		size, err := s.volumes.Size(ctx, v.Name)
		if err != nil {
			return nil, err
		}
		used := len(s.users(v.Name)) > 0
		kind.Items = append(kind.Items, &nodev1.DiskUsageResponse_Item{Id: v.Name, Name: v.Name, Size: size, Used: used, CreatedAt: nanoseconds(v.CreatedAt)})
		kind.Total++
		kind.Size += size
		if used {
			kind.Active++
		} else {
			kind.Reclaimable += size
		}
	}
	return kind, nil
}

// prunable containers are people's that do not run and are not about to.
func (s *Server) prunable(t target) bool {
	if t.e == nil {
		return false // kubelet's
	}
	state := t.e.state(t.c.Status())
	return state == "exited" || state == "created" || state == "dead"
}

// Prune removes what nobody uses: never what a client of CRI made, nor an image
// that one of them uses or that is pinned.
func (s *system) Prune(ctx context.Context, r *nodev1.PruneRequest) (*nodev1.PruneResponse, error) {
	before, err := s.DiskUsage(ctx, nil)
	if err != nil {
		return nil, err
	}
	answer := &nodev1.PruneResponse{}
	var errs []error
	if r.GetContainers() {
		errs = append(errs, s.pruneContainers(ctx, r, answer))
	}
	if r.GetImages() || r.GetAllImages() {
		errs = append(errs, s.pruneImages(ctx, r, answer))
	}
	if r.GetVolumes() {
		for _, v := range s.volumes.List() {
			// One with a name holds what somebody means to keep.
			if len(s.users(v.Name)) > 0 || !v.Anonymous && !r.GetAllVolumes() || !wanted(r, v.Labels, v.CreatedAt) {
				continue
			}
			if err := s.removeVolume(v.Name); err != nil {
				errs = append(errs, err)
				continue
			}
			answer.Volumes = append(answer.Volumes, v.Name)
		}
	}
	if r.GetNetworks() {
		errs = append(errs, s.pruneNetworks(r, answer))
	}
	if r.GetBuildCache() && s.Server.builder.builds != nil {
		_, err := s.Server.builder.builds.Prune(ctx, r.GetAllImages())
		errs = append(errs, err)
	}
	after, err := s.DiskUsage(ctx, nil)
	if err != nil {
		return nil, err
	}
	for i := range before.GetKinds() {
		answer.Reclaimed += max(0, before.GetKinds()[i].GetSize()-after.GetKinds()[i].GetSize())
	}
	return answer, errors.Join(errs...)
}

func (s *Server) pruneContainers(ctx context.Context, r *nodev1.PruneRequest, answer *nodev1.PruneResponse) error {
	var errs []error
	for _, c := range s.config.Containers.List() {
		t, ok := s.seen(c)
		if !ok || !s.prunable(t) || !wanted(r, c.Status().Labels, c.Status().CreatedAt) {
			continue
		}
		_, err := s.containers.Remove(ctx, &nodev1.RemoveRequest{Container: c.ID()})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		answer.Containers = append(answer.Containers, c.ID())
	}
	return errors.Join(errs...)
}

func (s *Server) pruneImages(ctx context.Context, r *nodev1.PruneRequest, answer *nodev1.PruneResponse) error {
	var errs []error
	for _, img := range s.config.Images.List() {
		named := len(img.Tags) > 0
		if img.Pinned || named && !r.GetAllImages() || len(s.imageUsers(img.ID)) > 0 || !wanted(r, img.Config.Config.Labels, img.PulledAt) {
			continue
		}
		removed, err := s.images.Remove(ctx, &nodev1.RemoveImageRequest{Image: img.ID, Force: true})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		answer.Images = append(answer.Images, removed.GetDeleted()...)
	}
	return errors.Join(errs...)
}

// wanted says whether an object has the labels and the age that a request names.
func wanted(r *nodev1.PruneRequest, labels map[string]string, created time.Time) bool {
	if r.GetUntil() != 0 && created.UnixNano() > r.GetUntil() {
		return false
	}
	return !slices.ContainsFunc(r.GetLabels(), func(filter string) bool {
		key, value, hasValue := strings.Cut(filter, "=")
		got, ok := labels[key]
		return !ok || hasValue && got != value
	})
}
