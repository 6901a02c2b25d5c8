package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers lists the manifests of the session's repository whose subject is
// the digest (distribution specification, "Listing Referrers"), of the given
// artifact types if any are given. Where the registry has no such list, the
// index under the referrers tag is read in its place. Nothing in the
// descriptors has been verified.
func (s *Session) Referrers(ctx context.Context, subject digest.Digest, artifactTypes ...string) ([]ocispec.Descriptor, error) {
	fetcher, err := s.resolver.Fetcher(quiet(ctx), s.name.String())
	if err != nil {
		return nil, s.classify(ctx, fmt.Errorf("list referrers of %s: %w", subject, err))
	}
	lister, ok := fetcher.(remotes.ReferrersFetcher)
	if !ok {
		return nil, fmt.Errorf("list referrers of %s: %w", subject, errdefs.ErrNotImplemented)
	}
	list, err := lister.FetchReferrers(quiet(ctx), subject, remotes.WithReferrerArtifactTypes(artifactTypes...))
	if err != nil {
		return nil, s.classify(ctx, fmt.Errorf("list referrers of %s: %w", subject, err))
	}
	return list, nil
}

// ResolveTag asks what another tag of the session's repository points to. The
// descriptor comes from response headers: nothing in it has been verified.
func (s *Session) ResolveTag(ctx context.Context, tag string) (ocispec.Descriptor, error) {
	tagged, err := reference.WithTag(reference.TrimNamed(s.name), tag)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("tag %q: %w: %w", tag, err, errdefs.ErrInvalidArgument)
	}
	_, desc, err := s.resolver.Resolve(quiet(ctx), tagged.String())
	if err != nil {
		return ocispec.Descriptor{}, s.classify(ctx, fmt.Errorf("resolve %s: %w", tagged, err))
	}
	return desc, nil
}

// Read returns the whole content of a descriptor, verified against its digest.
// More than limit bytes are an error.
func (s *Session) Read(ctx context.Context, desc ocispec.Descriptor, limit int64) (_ []byte, err error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("descriptor: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("read %s: has %d bytes, at most %d are allowed: %w", desc.Digest, desc.Size, limit, errdefs.ErrOutOfRange)
	}
	rc, err := s.Fetch(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	content, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) != desc.Size || desc.Digest.Algorithm().FromBytes(content) != desc.Digest {
		return nil, fmt.Errorf("read %s: content does not match: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return content, nil
}
