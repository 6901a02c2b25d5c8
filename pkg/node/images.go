package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func imageAuth(a *runtimeapi.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
		ServerAddress: a.GetServerAddress(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
}

// findImage finds an image by name, id or beginning of an id.
func (s *Server) findImage(ref string) (*image.Image, error) {
	if ref == "" {
		return nil, invalid("image: is empty")
	}
	img, err := s.config.Images.Resolve(ref)
	if errdefs.IsNotFound(err) {
		return nil, notFound("no image %q: \"cri-node images\" lists those there are, \"cri-node pull\" gets others", ref)
	}
	return img, err
}

// familiar is a name the way people write it.
func familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(named)
}

// repositoryOf parses a name of which all tags are meant.
func repositoryOf(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, invalid("image %q: %v", ref, err)
	}
	if !reference.IsNameOnly(named) {
		return nil, invalid("image %q has a tag, and all are asked for: leave one of them out", ref)
	}
	return named, nil
}

// Pull gets an image, or all of a repository.
func (s *images) Pull(r *nodev1.PullRequest, stream grpc.ServerStreamingServer[nodev1.Progress]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	if !r.GetAllTags() {
		if r.GetImage() == "" {
			return invalid("image: is empty")
		}
		return s.pull(ctx, r, r.GetImage(), stream.Send)
	}
	named, err := repositoryOf(r.GetImage())
	if err != nil {
		return err
	}
	tags, err := s.config.Images.Tags(ctx, named.Name(), imageAuth(r.GetAuth()))
	if err != nil {
		return fmt.Errorf("list tags of %s: %w", familiar(named.Name()), err)
	}
	for _, tag := range tags {
		if err := s.pull(ctx, r, named.Name()+":"+tag, stream.Send); err != nil {
			return err
		}
	}
	return nil
}

func (s *images) pull(ctx context.Context, r *nodev1.PullRequest, ref string, send func(*nodev1.Progress) error) error {
	named, err := image.ParseReference(ref)
	if err != nil {
		return err
	}
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	} else if d, ok := named.(reference.Digested); ok {
		tag = d.Digest().String()
	}
	if err := send(&nodev1.Progress{Message: fmt.Sprintf("%s: Pulling from %s", tag, reference.Path(named))}); err != nil {
		return err
	}
	before, _ := s.config.Images.Resolve(named.String())
	id, err := s.config.Images.Pull(ctx, image.PullRequest{
		Ref: ref, Auth: imageAuth(r.GetAuth()), Platform: r.GetPlatform(),
		OnProgress: func(p image.Progress) { _ = send(progressMessage(p)) }, // a client that is gone ends ctx
	})
	if err != nil {
		return pullProblem(err, named)
	}
	img, err := s.config.Images.Resolve(id)
	if err != nil {
		return err
	}
	digest := s.config.Images.DigestOf(named.String())
	upToDate := before != nil && before.ID == id
	status := "Status: Downloaded newer image for " + familiar(named.String())
	if upToDate {
		status = "Status: Image is up to date for " + familiar(named.String())
	}
	s.Report("image", "pull", id, familiar(named.String()), nil)
	for _, p := range []*nodev1.Progress{
		{Message: "Digest: " + digest}, {Message: status},
		{Image: &nodev1.ImageResult{Id: id, Name: named.String(), Digest: digest, UpToDate: upToDate, Size: int64(img.Size)}},
	} {
		if err := send(p); err != nil {
			return err
		}
	}
	return nil
}

// pullProblem puts in words what people most often run into.
func pullProblem(err error, named reference.Named) error {
	switch {
	case errdefs.IsNotFound(err) && !strings.Contains(err.Error(), "no image for"):
		return notFound("registry %s has no image %s: look at the name, or see \"cri-node login\" if it is private (%v)", reference.Domain(named), familiar(named.String()), err)
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return &problem{errdefs.ErrPermissionDenied, fmt.Sprintf("registry %s does not give out %s: it may not exist, or need \"cri-node login %s\" (%v)",
			reference.Domain(named), familiar(named.String()), reference.Domain(named), err)}
	case errors.Is(err, image.ErrRegistryUnavailable):
		why := strings.ReplaceAll(err.Error(), image.ErrRegistryUnavailable.Error()+": ", "")
		for _, known := range []string{"pull image " + named.String() + ": ", "resolve " + named.String() + ": ", "failed to do request: "} {
			why = strings.TrimPrefix(why, known)
		}
		return &problem{errdefs.ErrUnavailable, fmt.Sprintf("registry %s cannot be asked for %s: %s (image.certs_dirs of the configuration names mirrors)",
			reference.Domain(named), familiar(named.String()), why)}
	}
	return err
}

func progressMessage(p image.Progress) *nodev1.Progress {
	_, hex, _ := strings.Cut(p.Layer.String(), ":")
	return &nodev1.Progress{Layer: short(hex), Status: p.Status, Current: p.Current, Total: p.Total}
}

// Push sends an image, or all tags of a repository.
func (s *images) Push(r *nodev1.PushRequest, stream grpc.ServerStreamingServer[nodev1.Progress]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	if r.GetImage() == "" {
		return invalid("image: is empty")
	}
	if !r.GetAllTags() {
		return s.push(ctx, r, r.GetImage(), stream.Send)
	}
	named, err := repositoryOf(r.GetImage())
	if err != nil {
		return err
	}
	var tags []string
	for _, img := range s.config.Images.List() {
		for _, tag := range img.Tags {
			if strings.HasPrefix(tag, named.Name()+":") {
				tags = append(tags, tag)
			}
		}
	}
	if len(tags) == 0 {
		return notFound("no image has a name in %s: \"cri-node tag\" gives one", familiar(named.Name()))
	}
	slices.Sort(tags)
	for _, tag := range tags {
		if err := s.push(ctx, r, tag, stream.Send); err != nil {
			return err
		}
	}
	return nil
}

func (s *images) push(ctx context.Context, r *nodev1.PushRequest, ref string, send func(*nodev1.Progress) error) error {
	img, err := s.findImage(ref)
	if err != nil {
		return err
	}
	named, err := image.ParseReference(ref)
	if err != nil || !slices.Contains(img.Tags, named.String()) {
		return invalid("%q is no name of an image: push wants one, which says where to: \"cri-node tag %s REGISTRY/NAME:TAG\" gives one", ref, ref)
	}
	if err := send(&nodev1.Progress{Message: fmt.Sprintf("The push refers to repository [%s]", named.Name())}); err != nil {
		return err
	}
	auths := map[string]*image.Auth{}
	for host, a := range r.GetAuths() {
		auths[host] = imageAuth(a)
	}
	pushed, err := s.config.Images.Push(ctx, image.PushRequest{
		Ref: ref, Auth: imageAuth(r.GetAuth()), Auths: auths, Recompress: r.GetRecompress(),
		OnProgress: func(p image.Progress) { _ = send(progressMessage(p)) }, // a client that is gone ends ctx
	})
	if errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) {
		return &problem{errdefs.ErrPermissionDenied, fmt.Sprintf("registry %s does not take %s from you: \"cri-node login %s\" (%v)",
			reference.Domain(named), familiar(named.String()), reference.Domain(named), err)}
	}
	if err != nil {
		return err
	}
	tag := named.(reference.Tagged).Tag() //nolint:forcetypeassert // Push has looked
	s.Report("image", "push", img.ID, familiar(named.String()), nil)
	if img.Manifest != "" && !pushed.Kept {
		if err := send(&nodev1.Progress{Message: "Layers were compressed anew: the image has another digest than it was pulled with"}); err != nil {
			return err
		}
	}
	return errors.Join(
		send(&nodev1.Progress{Message: fmt.Sprintf("%s: digest: %s size: %d", tag, pushed.Digest, pushed.Size)}),
		send(&nodev1.Progress{Image: &nodev1.ImageResult{Id: img.ID, Name: named.String(), Digest: pushed.Digest.String(), Size: int64(img.Size)}}))
}
