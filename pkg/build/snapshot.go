package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// result is what an operation has made: a stack of layers, or files in a
// directory that have not become one.
type result struct {
	layers []built
	// dir, if not empty, has the files; layers are none then.
	dir string
	// content is what the files are, where somebody knows: the key of a download.
	content string
}

// built is one layer of a result.
type built struct {
	// DiffID is empty for an operation that has changed nothing.
	DiffID digest.Digest `json:"diffID,omitempty"`
	// Created is when; zero for layers of base images.
	Created time.Time `json:"created,omitzero"`
}

// stack are the layers without those that are empty.
func (r *result) stack() []digest.Digest {
	var ds []digest.Digest
	for _, l := range r.layers {
		if l.DiffID != "" {
			ds = append(ds, l.DiffID)
		}
	}
	return ds
}

// identity names what a result is; for files in a directory only where it was
// said, else empty.
func (r *result) identity() string {
	if r.dir != "" {
		return r.content
	}
	h := sha256.New()
	for _, d := range r.stack() {
		mix(h, d)
	}
	return "stack:" + hex.EncodeToString(h.Sum(nil))
}

// view is where the files of a result can be read.
func (r *run) view(ctx context.Context, of result) (string, error) {
	if of.dir != "" {
		return of.dir, nil
	}
	key := of.identity()
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.views[key]; v != nil {
		return v.Path, nil
	}
	v, err := r.config.Images.View(ctx, of.stack())
	if err != nil {
		return "", err
	}
	if r.views == nil {
		r.views = map[string]*image.View{}
	}
	r.views[key] = v
	r.releases = append(r.releases, v.Close)
	return v.Path, nil
}

// workspace is a writable layer on a result, in which files are changed without
// a container.
type workspace struct {
	run *run
	id  string
	// dir is where the files are.
	dir    string
	below  []built
	target string // of the mount; empty without one
}

// workspace makes one. On scratch there is nothing to see through to, so that
// files are written where they end up.
func (r *run) workspace(ctx context.Context, on result) (*workspace, error) {
	on, err := r.layered(ctx, on)
	if err != nil {
		return nil, err
	}
	w := &workspace{run: r, id: "build-" + newID(), below: on.layers}
	stack, release, err := r.config.Images.Stack(on.stack(), ocispec.Image{})
	if err != nil {
		return nil, err
	}
	defer release()
	if err := r.config.Images.PrepareRootfs(ctx, w.id, stack); err != nil {
		return nil, err
	}
	if len(on.stack()) == 0 {
		w.dir, err = r.config.Images.Upper(w.id)
	} else if w.target, err = r.tempDir("work"); err == nil {
		err = r.config.Images.MountRootfs(ctx, w.id, w.target, image.RootfsOptions{})
		w.dir = w.target
	}
	if err != nil {
		return nil, errors.Join(err, w.close(ctx))
	}
	return w, nil
}

// commit makes the result of what was written.
func (w *workspace) commit(ctx context.Context) (result, error) {
	return w.run.take(ctx, w.id, w.below)
}

// close throws the workspace away.
func (w *workspace) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	images := w.run.config.Images
	if w.target == "" {
		return images.RemoveRootfs(ctx, w.id)
	}
	return errors.Join(images.UnmountRootfs(ctx, w.id, w.target), images.RemoveRootfs(ctx, w.id), os.Remove(w.target))
}

// take makes a layer of what was written into a rootfs on others.
func (r *run) take(ctx context.Context, rootfs string, below []built) (result, error) {
	var clamp time.Time
	if e := r.epoch(); e != nil {
		clamp = *e
	}
	l, err := r.config.Images.TakeUpper(ctx, rootfs, clamp)
	if err != nil {
		return result{}, err
	}
	b := built{Created: r.now()}
	if l != nil {
		b.DiffID = l.DiffID
		r.onClose(func() error { l.Release(); return nil })
	}
	return result{layers: append(slices.Clip(below), b)}, nil
}

// layered is a result as layers: files in a directory become one.
func (r *run) layered(ctx context.Context, of result) (result, error) {
	if of.dir == "" {
		return of, nil
	}
	w, err := r.workspace(ctx, result{})
	if err != nil {
		return result{}, err
	}
	defer w.close(ctx) //nolint:errcheck // what stays is found by the next start
	if err := copyTree(ctx, of.dir, w.dir); err != nil {
		return result{}, err
	}
	return w.commit(ctx)
}

// hold keeps layers until the build ends.
func (r *run) hold(layers []digest.Digest) error {
	release, err := r.config.Images.HoldLayers(layers)
	if err != nil {
		return err
	}
	r.onClose(func() error { release(); return nil })
	return nil
}

// unmount takes a mount away, and the directory it was on.
func unmount(dir string) error { return errors.Join(linux.Unmount(dir), os.Remove(dir)) }
