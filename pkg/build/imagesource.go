package build

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image"
)

// baseImage is an image that a build starts from.
type baseImage struct {
	id     string
	digest digest.Digest // of its manifest, where it has one
	layers []built
	config []byte
}

// resolveImage finds an image in the store, or pulls it, once in a build.
func (r *run) resolveImage(ctx context.Context, step, ref string, p *ocispec.Platform, mode string) (*baseImage, error) {
	platform := ""
	if p != nil {
		platform = platforms.FormatAll(platforms.Normalize(*p))
	}
	f := r.imageFinder(ref+" "+platform, sync.OnceValues(func() (b *baseImage, err error) {
		// The front end asks in goroutines of its own.
		err = guard.Call(klog.FromContext(ctx), "the search for image "+ref, func() (err error) {
			b, err = r.findImage(ctx, step, ref, p, mode)
			return err
		})
		return b, err
	}))
	b, err := f()
	if err == nil && b.digest != "" && !strings.Contains(ref, "@") {
		r.imageFinder(ref+"@"+b.digest.String()+" "+platform, f) // as the graph will name it
	}
	return b, err
}

// imageFinder is how an image is found: as somebody has begun to, else by f.
func (r *run) imageFinder(key string, f func() (*baseImage, error)) func() (*baseImage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.images == nil {
		r.images = map[string]func() (*baseImage, error){}
	}
	if r.images[key] == nil {
		r.images[key] = f
	}
	return r.images[key]
}

// findImage is resolveImage the first time.
func (r *run) findImage(ctx context.Context, step, ref string, p *ocispec.Platform, mode string) (*baseImage, error) {
	platform := ""
	if p != nil {
		platform = platforms.FormatAll(platforms.Normalize(*p))
	}
	img, err := r.config.Images.Resolve(ref)
	force := mode == pb.AttrImageResolveModeForcePull || r.request.Pull
	if err != nil || force && !strings.Contains(ref, "@") || img != nil && !fits(img, p) {
		if img, err = r.pull(ctx, step, ref, platform); err != nil {
			return nil, err
		}
	}
	if img.Artifact != nil {
		return nil, fmt.Errorf("%s is an OCI artifact and no image: %w", ref, errdefs.ErrInvalidArgument)
	}
	b := &baseImage{id: img.ID, digest: img.Manifest}
	for _, d := range img.Layers {
		b.layers = append(b.layers, built{DiffID: d})
	}
	if err := r.hold(img.Layers); err != nil {
		return nil, err
	}
	if b.config, err = r.config.Images.RawConfig(img.ID); err != nil {
		return nil, err
	}
	return b, nil
}

// fits reports whether an image is for a platform.
func fits(img *image.Image, p *ocispec.Platform) bool {
	if p == nil || img.Config.Architecture == "" {
		return true
	}
	have := platforms.Normalize(img.Config.Platform)
	return platforms.Only(platforms.Normalize(*p)).Match(have)
}

// pull pulls an image and says how far it is.
func (r *run) pull(ctx context.Context, step, ref, platform string) (*image.Image, error) {
	req := image.PullRequest{Ref: ref}
	if platform != "" && platform != platforms.FormatAll(platforms.Normalize(platforms.DefaultSpec())) {
		req.Platform = platform
	}
	if r.request.Auth != nil {
		req.Auth = r.request.Auth(ref)
	}
	req.OnProgress = func(p image.Progress) {
		if p.Layer != "" {
			r.progress.to.Progress(step, p.Status+" "+p.Layer.Encoded()[:12], p.Current, p.Total)
		}
	}
	id, err := r.config.Images.Pull(ctx, req)
	if err != nil {
		return nil, err
	}
	return r.config.Images.Resolve(id)
}

// imageSource is the layers of an image.
func (r *run) imageSource(ctx context.Context, step, ref string, op *pb.SourceOp, p *pb.Platform) (result, error) {
	var platform *ocispec.Platform
	if p != nil {
		spec := p.Spec()
		platform = &spec
	}
	b, err := r.resolveImage(ctx, step, ref, platform, op.GetAttrs()[pb.AttrImageResolveMode])
	if err != nil {
		return result{}, err
	}
	return result{layers: b.layers}, nil
}

// ResolveImageConfig says what an image is that a Dockerfile names.
func (f *frontend) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if opt.OCILayoutOpt != nil {
		return "", "", nil, fmt.Errorf("contexts of type oci-layout: %w", errdefs.ErrNotImplemented)
	}
	var platform *ocispec.Platform
	mode := ""
	if o := opt.ImageOpt; o != nil {
		platform, mode = o.Platform, o.ResolveMode
	}
	var b *baseImage
	err := f.run.progress.shared(opt.LogName, func(step string) (err error) {
		b, err = f.run.resolveImage(ctx, step, ref, platform, mode)
		return err
	})
	if err != nil {
		return "", "", nil, err
	}
	if !json.Valid(b.config) {
		return "", "", nil, fmt.Errorf("config of image %s is broken: %w", ref, errdefs.ErrDataLoss)
	}
	if strings.Contains(ref, "@") {
		return ref, "", b.config, nil
	}
	return ref, b.digest, b.config, nil
}
