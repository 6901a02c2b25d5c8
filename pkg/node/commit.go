package node

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/image/layer"
	"github.com/cri-node/cri-node/pkg/node/imageconfig"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Commit makes an image of a container: that it was made from, what it has
// changed, and how it was told to run. Containers of kubelet's are not frozen
// for it, and their environment, which holds secrets, stays out.
func (s *containers) Commit(ctx context.Context, r *nodev1.CommitRequest) (*nodev1.CommitResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	names, err := newNames(r.GetImage())
	if err != nil {
		return nil, err
	}
	c, err := s.commitConfig(t)
	if err != nil {
		return nil, err
	}
	if err := imageconfig.Change(c, r.GetChanges()); err != nil {
		return nil, err
	}
	if r.GetAuthor() != "" {
		c.Author = r.GetAuthor()
	}
	thaw, err := s.freezeFor(ctx, t, r.GetNoPause())
	if err != nil {
		return nil, err
	}
	made, err := s.config.Images.CommitRootfs(ctx, t.c.ID(), layer.ExportOptions{
		Skip: mountPoints(t.c), UID: t.c.Status().UserNS.Mappings().NamespaceUID, GID: t.c.Status().UserNS.Mappings().NamespaceGID,
	})
	if err := errors.Join(err, thaw()); err != nil {
		return nil, err
	}
	defer made.Release()
	history := ocispec.History{Author: r.GetAuthor(), Comment: r.GetMessage()}
	if p, err := t.c.InitProcess(); err == nil {
		history.CreatedBy = strings.Join(p.Args, " ")
	}
	imageconfig.AddLayer(c, made.DiffID, time.Now(), history)
	id, err := s.register(ctx, c, names)
	if err != nil {
		return nil, err
	}
	s.tell(t, "commit", map[string]string{"imageID": id, "imageRef": r.GetImage()})
	return &nodev1.CommitResponse{ImageId: id}, nil
}

// freezeFor stops the processes of a container of people's until thaw is called.
func (s *Server) freezeFor(ctx context.Context, t target, not bool) (thaw func() error, err error) {
	st := t.c.Status()
	if not || t.e == nil || st.State != runtime.Running || st.Paused {
		return func() error { return nil }, nil
	}
	if err := t.c.Pause(ctx); err != nil {
		if errdefs.IsFailedPrecondition(err) && t.c.Status().State != runtime.Running {
			return func() error { return nil }, nil // has just ended
		}
		return nil, err
	}
	return func() error {
		err := t.c.Unpause(context.WithoutCancel(ctx))
		if errdefs.IsFailedPrecondition(err) {
			return nil // ended, or was let go by somebody else
		}
		return err
	}, nil
}

// commitConfig is the configuration of the image a container was made from, with
// what was asked for instead.
func (s *Server) commitConfig(t target) (*imageconfig.Config, error) {
	c := imageconfig.New(platforms.DefaultSpec())
	raw, err := s.config.Images.ConfigBytes(t.c.Status().ImageID)
	switch {
	case err == nil:
		if c, err = imageconfig.Parse(raw); err != nil {
			return nil, err
		}
	case errdefs.IsNotFound(err): // its layers are there as long as the container
		if c.RootFS.DiffIDs, err = s.config.Images.RootfsLayers(t.c.ID()); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	config, err := s.config.CRI.ContainerConfig(t.c.ID())
	if err != nil {
		return nil, err
	}
	if t.e == nil {
		return c, nil
	}
	record := t.e.record()
	request := record.request()
	switch {
	case len(config.GetCommand()) > 0 || request.GetEntrypointCleared():
		c.Config.Entrypoint, c.Config.Cmd = config.GetCommand(), config.GetArgs()
	case len(config.GetArgs()) > 0:
		c.Config.Cmd = config.GetArgs()
	}
	for _, kv := range config.GetEnvs() {
		c.Config.Env = imageconfig.SetEnv(c.Config.Env, kv.GetKey(), string(kv.GetValue()))
	}
	if config.GetWorkingDir() != "" {
		c.Config.WorkingDir = config.GetWorkingDir()
	}
	if labels := request.GetContainer().GetLabels(); len(labels) > 0 {
		c.Config.Labels = maps.Clone(c.Config.Labels)
		if c.Config.Labels == nil {
			c.Config.Labels = map[string]string{}
		}
		for k, v := range labels {
			if !strings.HasPrefix(k, "io.cri-node.") {
				c.Config.Labels[k] = v
			}
		}
	}
	return c, nil
}

// mountPoints finds what the OCI runtime has made to mount something on: empty
// files, and directories whose content nobody has seen.
func mountPoints(c *runtime.Container) func(string, *unix.Stat_t) bool {
	mounted := map[string]bool{"dev": true, "proc": true, "sys": true}
	if spec, err := c.Spec(); err == nil {
		for _, m := range spec.Mounts {
			mounted[strings.Trim(m.Destination, "/")] = true
		}
	}
	return func(name string, st *unix.Stat_t) bool {
		if !mounted[name] {
			return false
		}
		kind := st.Mode & unix.S_IFMT
		return kind == unix.S_IFDIR || kind == unix.S_IFREG && st.Size == 0
	}
}

// Export sends the files of a container as a tar. Directories that something is
// mounted on are empty in it, as for docker.
func (s *containers) Export(r *nodev1.ExportRequest, stream grpc.ServerStreamingServer[nodev1.Chunk]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	t, err := s.find(r.GetContainer())
	if err != nil {
		return err
	}
	// Files of the image have the owners that the namespace is to see already.
	ids := t.c.Status().UserNS.Mappings()
	o := layer.ExportOptions{
		UID: func(id uint32) (uint32, bool) { return orSame(ids.NamespaceUID(id))(id), true },
		GID: func(id uint32) (uint32, bool) { return orSame(ids.NamespaceGID(id))(id), true },
	}
	err = sendFile(stream.Send, func(w io.Writer) error { return s.config.Images.ExportMerged(ctx, t.c.ID(), w, o) })
	if err == nil {
		s.tell(t, "export", nil)
	}
	return err
}

func orSame(mapped uint32, ok bool) func(uint32) uint32 {
	return func(id uint32) uint32 {
		if ok {
			return mapped
		}
		return id
	}
}

// Changes lists what a container has changed in the files of its image.
func (s *containers) Changes(ctx context.Context, r *nodev1.ChangesRequest) (*nodev1.ChangesResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	changes, err := s.config.Images.Changes(ctx, t.c.ID(), mountPoints(t.c))
	if err != nil {
		return nil, err
	}
	response := &nodev1.ChangesResponse{}
	for _, c := range changes {
		response.Changes = append(response.Changes, &nodev1.ChangesResponse_Change{Kind: string(rune(c.Kind)), Path: printable(c.Path)})
	}
	return response, nil
}
