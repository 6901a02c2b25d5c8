package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/cri/checkpoint"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// restorable is a checkpoint that a container is to be made of.
type restorable struct {
	manifest *checkpoint.Manifest
	// unpack verifies it and takes it apart.
	unpack func(ctx context.Context, dir string) (*checkpoint.Unpacked, error)
	// strict: the request describes the process that was checkpointed.
	strict bool
}

// restoreFrom finds out whether the image of a request is a checkpoint: the
// path of an archive, or an image with one in it. Nil is an image like others.
func (s *Server) restoreFrom(ref string) (*restorable, error) {
	if s.config.CheckpointKey == nil {
		return nil, nil //nolint:nilnil // see above
	}
	if filepath.IsAbs(ref) {
		return s.archive(ref)
	}
	img, err := s.config.Images.Resolve(ref)
	if err != nil || !mayBeCheckpoint(img) {
		return nil, nil //nolint:nilnil,nilerr // whoever needs the image will say so
	}
	r := &restorable{unpack: func(ctx context.Context, dir string) (u *checkpoint.Unpacked, err error) {
		err = s.config.Images.ReadLayer(img.ID, func(layer string) error {
			u, err = s.config.CheckpointKey.UnpackDir(ctx, layer, dir)
			return err
		})
		return u, err
	}}
	err = s.config.Images.ReadLayer(img.ID, func(layer string) error {
		r.manifest, err = s.config.CheckpointKey.PeekDir(layer)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %s has nothing to run, and is no checkpoint that can be restored here: %w", ref, err)
	}
	return r, nil
}

// mayBeCheckpoint sorts out, without looking at the disk, what runs something.
func mayBeCheckpoint(img *image.Image) bool {
	return img.Artifact == nil && len(img.Layers) == 1 && len(img.Config.Config.Entrypoint)+len(img.Config.Config.Cmd) == 0
}

// archive opens an archive by its path.
func (s *Server) archive(path string) (*restorable, error) {
	open := func() (*os.File, error) {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("checkpoint %s: %w", path, errdefs.ErrNotFound)
		}
		if err != nil {
			return nil, fmt.Errorf("open checkpoint: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("checkpoint %s is no file: %w", path, errdefs.ErrInvalidArgument), err, f.Close())
		}
		return f, nil
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	m, err := s.config.CheckpointKey.Peek(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", path, err)
	}
	return &restorable{manifest: m, unpack: func(ctx context.Context, dir string) (*checkpoint.Unpacked, error) {
		f, err := open()
		if err != nil {
			return nil, err
		}
		u, err := s.config.CheckpointKey.Unpack(ctx, f, dir)
		return u, errors.Join(err, f.Close())
	}}, nil
}

// image finds the image that the checkpointed container was made from. It is
// looked for by its ID: no name in a checkpoint means anything here.
func (r *restorable) image(images *image.Store) (*image.Image, error) {
	img, err := images.Resolve(r.manifest.Container.ImageID)
	if err != nil || img.ID != r.manifest.Container.ImageID {
		return nil, fmt.Errorf("the checkpointed container was made from image %s (%.200q), which is not on this node: pull it first: %w",
			r.manifest.Container.ImageID, r.manifest.Container.ImageRef, errdefs.ErrFailedPrecondition)
	}
	return img, nil
}

// restoreInto unpacks a checkpoint into a container that is being created, and
// completes its options. What the container may do is what the request says;
// a checkpoint of one that could do other things is refused, because its
// processes come back as they were.
func (s *Server) restoreInto(ctx context.Context, c *runtime.Container, r *restorable, o *runtime.CreateOptions) error {
	if err := c.CanCheckpoint(ctx); err != nil {
		return err
	}
	dir := c.CheckpointDir()
	u, err := r.unpack(ctx, dir)
	if err != nil {
		return err
	}
	var was specs.Spec
	if err := json.Unmarshal(u.Spec, &was); err != nil {
		return fmt.Errorf("decode spec of the checkpoint: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := checkRestore(&was, o.Spec, r.strict); err != nil {
		return fmt.Errorf("the checkpoint does not fit the request: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err := c.ReplaceRootfs(ctx, func(ctx context.Context) error { return s.fillRootfs(ctx, c.ID(), u.Diff) }); err != nil {
		return err
	}
	if err := os.Remove(u.Diff); err != nil {
		return fmt.Errorf("remove unpacked changes: %w", err)
	}
	point := u.Manifest.Point(u.Images)
	o.Restore = &point
	return nil
}

func (s *Server) fillRootfs(ctx context.Context, id, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	return s.config.Images.FillRootfs(ctx, id, f)
}

// checkRestore compares what a container was with what it is to be.
func checkRestore(was, is *specs.Spec, strict bool) error {
	if was.Process == nil || was.Linux == nil {
		return errors.New("its spec has no process")
	}
	for _, c := range []struct {
		what    string
		was, is any
	}{
		{"tty", was.Process.Terminal, is.Process.Terminal},
		{"run_as_user, run_as_group or supplemental_groups", was.Process.User, is.Process.User},
		{"capabilities", was.Process.Capabilities, is.Process.Capabilities},
		{"no_new_privs", was.Process.NoNewPrivileges, is.Process.NoNewPrivileges},
		{"apparmor", was.Process.ApparmorProfile, is.Process.ApparmorProfile},
		{"seccomp", was.Linux.Seccomp, is.Linux.Seccomp},
		{"namespace_options", namespaceKinds(was), namespaceKinds(is)},
		{"mounts", mountPoints(was), mountPoints(is)},
		{"masked_paths", was.Linux.MaskedPaths, is.Linux.MaskedPaths},
		{"readonly_paths", was.Linux.ReadonlyPaths, is.Linux.ReadonlyPaths},
	} {
		if !same(c.was, c.is) {
			return fmt.Errorf("%s of the checkpointed container are others", c.what)
		}
	}
	if !strict {
		return nil
	}
	switch {
	case !same(was.Process.Args, is.Process.Args):
		return fmt.Errorf("it ran %.200q", was.Process.Args)
	case was.Process.Cwd != is.Process.Cwd:
		return fmt.Errorf("its working directory was %.200q", was.Process.Cwd)
	case !same(environment(was), environment(is)):
		return errors.New("its environment was another")
	}
	return nil
}

// same compares what JSON says of two values: that is what a spec is.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// namespaceKinds are the namespaces of a container, and whether they are its
// pod's.
func namespaceKinds(s *specs.Spec) map[specs.LinuxNamespaceType]bool {
	kinds := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		kinds[n.Type] = n.Path != ""
	}
	return kinds
}

// mountPoints are the places in a container where something is mounted, and of
// which kind it is: the processes have files open there.
func mountPoints(s *specs.Spec) map[string]string {
	points := map[string]string{}
	for _, m := range s.Mounts {
		points[m.Destination] = m.Type
	}
	return points
}

// environment is that of a process, but for the name of its pod.
func environment(s *specs.Spec) map[string]string {
	env := map[string]string{}
	for _, e := range s.Process.Env {
		if name, value, _ := strings.Cut(e, "="); name != "HOSTNAME" {
			env[name] = value
		}
	}
	return env
}
