package cri

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/checkpoint"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// checkpointTime is how long a checkpoint may take where the request does not
// say.
const checkpointTime = 5 * time.Minute

// CheckpointContainer writes the state of a running container to an archive,
// and lets it run on.
func (s *Server) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if err := s.checkpointsEnabled(); err != nil {
		return nil, err
	}
	switch {
	case !filepath.IsAbs(r.GetLocation()):
		return nil, fmt.Errorf("location: %q is not absolute: %w", r.GetLocation(), errdefs.ErrInvalidArgument)
	case r.GetTimeout() < 0:
		return nil, fmt.Errorf("timeout: is %d: %w", r.GetTimeout(), errdefs.ErrInvalidArgument)
	}
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	limit := checkpointTime
	if r.GetTimeout() > 0 {
		limit = seconds(r.GetTimeout())
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = s.checkpointAll(ctx, []*runtime.Container{c}, func(_ int, content checkpoint.Content) error {
		return s.writeArchive(ctx, r.GetLocation(), content)
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoint container %s: %w", c.ID(), err)
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// checkpointsEnabled says why there are none.
func (s *Server) checkpointsEnabled() error {
	if s.config.CheckpointKey == nil {
		return fmt.Errorf("checkpoints are not enabled in the configuration (checkpoint.enable): %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// checkpointDir is where checkpoints are made and taken apart.
func (s *Server) checkpointDir() string { return filepath.Join(s.config.Root, "checkpoints") }

// checkpointAll takes the state of containers at one moment and hands each to
// write, whose files go when it returns.
func (s *Server) checkpointAll(ctx context.Context, containers []*runtime.Container, write func(i int, c checkpoint.Content) error) (err error) {
	for _, c := range containers {
		if c.Status().State != runtime.Running {
			return fmt.Errorf("container %s is not running: %w", c.ID(), errdefs.ErrFailedPrecondition)
		}
		if err := c.CanCheckpoint(ctx); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.checkpointDir(), 0o700); err != nil {
		return fmt.Errorf("create directory of checkpoints: %w", err)
	}
	work, err := os.MkdirTemp(s.checkpointDir(), "dump-")
	if err != nil {
		return fmt.Errorf("create directory of the checkpoint: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	contents := make([]checkpoint.Content, len(containers))
	targets := make([]runtime.CheckpointTarget, len(containers))
	for i, c := range containers {
		dir := filepath.Join(work, c.ID())
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("create directory of the checkpoint: %w", err)
		}
		if contents[i], err = s.checkpointContent(c, dir); err != nil {
			return err
		}
		targets[i] = runtime.CheckpointTarget{Container: c, Dir: dir, Frozen: func(ctx context.Context, p runtime.Checkpoint) error {
			contents[i].Images, contents[i].Stdio, contents[i].TTY = p.Images, p.Stdio, p.TTY
			return s.exportRootfs(ctx, c.ID(), contents[i].Diff)
		}}
	}
	if err := s.config.Containers.CheckpointAll(ctx, targets); err != nil {
		return err
	}
	for i := range contents {
		if err := write(i, contents[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkpointContent is what is known of a container before its state is taken.
func (s *Server) checkpointContent(c *runtime.Container, dir string) (checkpoint.Content, error) {
	st := c.Status()
	spec, err := os.ReadFile(filepath.Join(c.Dir(), "config.json"))
	if err != nil {
		return checkpoint.Content{}, fmt.Errorf("read spec of container %s: %w", c.ID(), err)
	}
	return checkpoint.Content{
		Container: checkpoint.Container{
			ID: c.ID(), Name: st.Name, Pod: st.Group, Handler: st.Handler,
			ImageID: st.ImageID, ImageRef: s.containerView(st).UserSpecifiedImage,
			CreatedAt: st.CreatedAt.UTC(), CheckpointedAt: time.Now().UTC(),
		},
		Spec: spec, Diff: filepath.Join(dir, "rootfs-diff.tar"),
	}, nil
}

func (s *Server) exportRootfs(ctx context.Context, id, file string) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = s.config.Images.ExportRootfs(ctx, id, w)
	return errors.Join(err, w.Flush(), f.Close())
}

// writeArchive writes an archive that is either there as a whole, readable by
// root alone, or not at all.
func (s *Server) writeArchive(ctx context.Context, location string, content checkpoint.Content) (err error) {
	f, err := os.CreateTemp(filepath.Dir(location), "."+filepath.Base(location)+".*") // 0600
	if err != nil {
		return fmt.Errorf("create archive: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	err = s.config.CheckpointKey.Write(ctx, w, content)
	if err := errors.Join(err, w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), location); err != nil {
		return fmt.Errorf("put archive in place: %w", err)
	}
	return nil
}
