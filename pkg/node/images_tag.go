package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Tag gives an image another name.
func (s *images) Tag(ctx context.Context, r *nodev1.TagRequest) (*nodev1.TagResponse, error) {
	img, err := s.findImage(r.GetSource())
	if err != nil {
		return nil, err
	}
	if err := s.config.Images.Tag(ctx, img.ID, r.GetTarget()); err != nil {
		return nil, err
	}
	s.Report("image", "tag", img.ID, familiarTag(r.GetTarget()), nil)
	return &nodev1.TagResponse{}, nil
}

// familiarTag is familiar, with the tag that a name without one has.
func familiarTag(ref string) string {
	named, err := image.ParseReference(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(named)
}

// Remove takes a name from an image and, with the last one, the image. By its id
// it takes the image with all names. One that a container needs loses its names
// at most.
func (s *images) Remove(ctx context.Context, r *nodev1.RemoveImageRequest) (*nodev1.RemoveImageResponse, error) {
	img, err := s.findImage(r.GetImage())
	if err != nil {
		return nil, err
	}
	name := givenName(img, r.GetImage())
	if name == "" && !r.GetForce() {
		if repositories := repositoriesOf(img); len(repositories) > 1 {
			return nil, refused("image %s has names in several repositories (%s): remove the names, or --force if you mean them all",
				r.GetImage(), strings.Join(repositories, ", "))
		}
	}
	if name != "" && !isLastName(img, name) {
		taken, err := s.untag(ctx, img, []string{name})
		return &nodev1.RemoveImageResponse{Untagged: taken}, err
	}
	users := s.imageUsers(img.ID)
	switch {
	case r.GetForce():
	case len(users) > 0:
		return nil, refused("image %s is used by container %s: remove it with \"cri-node rm\", or --force to take the names alone", r.GetImage(), strings.Join(users, ", "))
	case img.Pinned:
		return nil, refused("image %s is pinned by the configuration (image.pinned): --force if you mean it", r.GetImage())
	}
	names := slices.Concat(img.Tags, img.Digests)
	if len(users) > 0 {
		taken, err := s.untag(ctx, img, names)
		return &nodev1.RemoveImageResponse{Untagged: taken}, err
	}
	if err := s.config.Images.Remove(ctx, img.ID); err != nil {
		return nil, err
	}
	for _, n := range names {
		s.Report("image", "untag", img.ID, familiar(n), nil)
	}
	s.Report("image", "delete", img.ID, img.ID, nil)
	return &nodev1.RemoveImageResponse{Untagged: familiars(names), Deleted: []string{img.ID}}, nil
}

// givenName is the name that ref is, empty where it is an id.
func givenName(img *image.Image, ref string) string {
	named, err := image.ParseReference(ref)
	if err == nil && (slices.Contains(img.Tags, named.String()) || slices.Contains(img.Digests, named.String())) {
		return named.String()
	}
	return ""
}

// isLastName tells whether nothing names the image once this name is gone: the
// digests known in a repository go with the last tag there.
func isLastName(img *image.Image, name string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	for _, n := range slices.Concat(img.Tags, img.Digests) {
		if n != name && (strings.Contains(name, "@") || !strings.HasPrefix(n, named.Name()+"@")) {
			return false
		}
	}
	return true
}

func repositoriesOf(img *image.Image) []string {
	var names []string
	for _, n := range slices.Concat(img.Tags, img.Digests) {
		if named, err := reference.ParseNormalizedNamed(n); err == nil && !slices.Contains(names, reference.FamiliarName(named)) {
			names = append(names, reference.FamiliarName(named))
		}
	}
	return names
}

// imageUsers are the containers made from an image, in words.
func (s *Server) imageUsers(id string) []string {
	var users []string
	for _, c := range s.config.Containers.List() {
		if st := c.Status(); st.ImageID == id {
			t, _ := s.seen(c)
			t.c = c
			users = append(users, fmt.Sprintf("%s (%s)", s.title(t), short(st.ID)))
		}
	}
	return users
}

func (s *images) untag(ctx context.Context, img *image.Image, names []string) ([]string, error) {
	var taken []string
	for _, n := range names {
		if slices.Contains(taken, familiar(n)) {
			continue
		}
		gone, err := s.config.Images.Untag(ctx, n)
		if err != nil {
			return taken, err
		}
		for _, g := range gone {
			taken = append(taken, familiar(g))
			s.Report("image", "untag", img.ID, familiar(g), nil)
		}
	}
	return taken, nil
}
