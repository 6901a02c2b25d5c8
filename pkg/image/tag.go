package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Tag gives an image, named or by ID, another name, which another image loses
// if it has it.
func (s *Store) Tag(ctx context.Context, source, target string) error {
	refs, err := parseTags([]string{target})
	if err != nil {
		return err
	}
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return err
	}
	img, err := s.Resolve(source)
	if err != nil {
		return err
	}
	if slices.Contains(img.Tags, refs[0]) {
		return nil
	}
	if _, isStack := s.stacks.Load(img.ID); isStack {
		return fmt.Errorf("image %s: %w", source, errdefs.ErrNotFound)
	}
	return s.amend(digest.Digest(img.ID), func(*imageRecord) {}, refs[0])
}

// Untag takes a name from an image, and with the last tag of a repository the
// digests that were known there. The image stays, if need be without a name.
// What was taken is returned.
func (s *Store) Untag(ctx context.Context, ref string) ([]string, error) {
	named, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	done, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	img := s.view.Load().byName[named.String()]
	if img == nil {
		return nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	var taken []string
	err = s.amend(digest.Digest(img.ID), func(r *imageRecord) {
		taken = taken[:0]
		r.Names = slices.DeleteFunc(r.Names, func(n name) bool {
			gone := n.Ref == named.String()
			if gone {
				taken = append(taken, n.Ref)
			}
			return gone
		})
		repository := named.Name()
		if strings.Contains(named.String(), "@") || slices.ContainsFunc(r.Names, func(n name) bool { return strings.HasPrefix(n.Ref, repository+":") }) {
			return
		}
		r.Names = slices.DeleteFunc(r.Names, func(n name) bool {
			gone := strings.HasPrefix(n.Ref, repository+"@")
			if gone {
				taken = append(taken, n.Ref)
			}
			return gone
		})
	})
	return taken, err
}

// DigestOf is the digest that the repository of a name was last known to have
// for the image of that name; empty for none.
func (s *Store) DigestOf(ref string) string {
	named, err := ParseReference(ref)
	if err != nil {
		return ""
	}
	if d, ok := named.(reference.Digested); ok {
		return d.Digest().String()
	}
	img := s.view.Load().byName[named.String()]
	if img == nil {
		return ""
	}
	st := s.imageByID(digest.Digest(img.ID))
	if st == nil {
		return ""
	}
	var last name
	for _, n := range st.record.Names {
		if strings.HasPrefix(n.Ref, named.Name()+"@") && n.Sequence >= last.Sequence {
			last = n
		}
	}
	_, text, _ := strings.Cut(last.Ref, "@")
	return text
}
