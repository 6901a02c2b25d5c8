package build

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/image/layer"
)

// target is what a Dockerfile has become.
type target struct {
	result result
	image  *dockerspec.DockerOCIImage
	base   *dockerspec.DockerOCIImage
}

// epoch is SOURCE_DATE_EPOCH, nil without it.
func (r *run) epoch() *time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sourceDate
}

func (r *run) setEpoch(t *time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sourceDate = t
}

// now is the time that images say they were made at.
func (r *run) now() time.Time {
	if e := r.epoch(); e != nil {
		return e.UTC()
	}
	return time.Now().UTC()
}

// export makes of the result what was asked for.
func (r *run) export(ctx context.Context, t *target) (*Result, error) {
	out := r.request.Output
	switch out.Type {
	case "", "image":
		return r.exportImage(ctx, t)
	case "docker":
		return r.exportArchive(ctx, t, image.DockerArchive)
	case "oci":
		return r.exportArchive(ctx, t, image.OCIArchive)
	case "tar", "local":
		return &Result{}, r.progress.do("exporting to client "+out.Type, func(string) error {
			dir, err := r.view(ctx, t.result)
			if err != nil {
				return err
			}
			return layer.Export(ctx, dir, out.Writer)
		})
	}
	return nil, fmt.Errorf("output of type %q: use image, local, tar, oci or docker: %w", out.Type, errdefs.ErrInvalidArgument)
}

// exportImage enters the image into the store.
func (r *run) exportImage(ctx context.Context, t *target) (*Result, error) {
	var res Result
	err := r.progress.do("exporting to image", func(step string) error {
		say := r.progress.writer(step, 1)
		of, err := r.layered(ctx, t.result)
		if err != nil {
			return err
		}
		say.line("exporting layers done")
		config, err := r.imageConfig(t, of)
		if err != nil {
			return err
		}
		img, err := r.config.Images.Register(ctx, config, r.request.Tags...)
		if err != nil {
			return err
		}
		res = Result{ImageID: img.ID, Names: img.Tags}
		say.line("writing image", img.ID, "done")
		for _, tag := range r.request.Tags {
			say.line("naming to", tag, "done")
		}
		return r.config.Images.SyncHolds(ctx)
	})
	if err != nil {
		return nil, err
	}
	return &res, nil
}

// exportArchive enters the image into the store and writes it as an archive.
func (r *run) exportArchive(ctx context.Context, t *target, format string) (*Result, error) {
	res, err := r.exportImage(ctx, t)
	if err != nil {
		return nil, err
	}
	refs := []string{res.ImageID}
	if len(r.request.Tags) > 0 {
		refs = r.request.Tags
	}
	return res, r.progress.do("exporting to client "+format, func(string) error {
		return r.config.Images.Save(ctx, refs, format, r.request.Output.Writer)
	})
}

// imageConfig completes the config: layers, history, and when it was made.
func (r *run) imageConfig(t *target, of result) ([]byte, error) {
	img := *t.image
	diffIDs, history := normalize(of.layers, img.History)
	img.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}
	img.History = history
	img.Created = r.epoch()
	if img.Created == nil {
		for i := range history {
			if c := history[i].Created; c != nil && (img.Created == nil || c.After(*img.Created)) {
				img.Created = c
			}
		}
	}
	if img.Created == nil {
		now := r.now()
		img.Created = &now
	}
	utc := img.Created.UTC()
	img.Created = &utc
	return json.Marshal(&img)
}

// normalize pairs layers with their lines of the history. Steps that have
// changed nothing are lines without a layer. Layers that have no line are those
// of a base image that says nothing of them, and come first.
func normalize(layers []built, history []ocispec.History) ([]digest.Digest, []ocispec.History) {
	lines := 0
	for _, h := range history {
		if !h.EmptyLayer {
			lines++
		}
	}
	var out []ocispec.History
	for i := range max(0, len(layers)-lines) {
		out = append(out, ocispec.History{Created: madeAt(layers[i]), CreatedBy: "layer of the base image", Comment: "cri-node.build"})
	}
	out = append(out, history...)
	diffIDs := []digest.Digest{}
	next := 0
	for i := range out {
		if out[i].EmptyLayer {
			continue
		}
		if next == len(layers) {
			out[i].EmptyLayer = true
			continue
		}
		l := layers[next]
		next++
		if out[i].Created == nil {
			out[i].Created = madeAt(l)
		}
		if l.DiffID == "" {
			out[i].EmptyLayer = true
		} else {
			diffIDs = append(diffIDs, l.DiffID)
		}
	}
	return diffIDs, dated(out)
}

func madeAt(l built) *time.Time {
	if l.Created.IsZero() {
		return nil
	}
	return &l.Created
}

// dated gives lines without a time that of the layer before them, and at the
// beginning that of the first layer that has one.
func dated(history []ocispec.History) []ocispec.History {
	var last *time.Time
	for i := range history {
		if history[i].Created != nil {
			last = history[i].Created
			break
		}
	}
	for i := range history {
		if history[i].Created == nil {
			history[i].Created = last
		} else {
			last = history[i].Created
		}
	}
	return history
}
