package image

import (
	"context"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/image/registry"
	"github.com/cri-node/cri-node/pkg/image/signature"
)

// ErrSignature means that an image does not carry the signature that the
// policy asks for. Errors of Pull that are it begin with its text, which
// kubelet looks for.
var ErrSignature = signature.ErrRefused

// SetPolicy changes what images must carry from the next pull on. The nil
// policy accepts all. Images that are there stay.
func (s *Store) SetPolicy(p *signature.Policy) { s.policy.Store(p) }

// verify asks the policy about what a name points to now, before any of it
// becomes visible, and also where the image is there already: it may have come
// under another name, or for a namespace that asks less.
func (s *Store) verify(ctx context.Context, session *registry.Session, r pullRequest, root ocispec.Descriptor) error {
	requirement := s.policy.Load().For(r.named, r.namespace)
	if requirement == nil {
		return nil
	}
	subjects := []ocispec.Descriptor{root}
	if indexType(root.MediaType) {
		// Signers of one platform's image alone have signed its manifest.
		p, err := s.fetchDocuments(ctx, session, root, r.platform)
		if err != nil {
			return err
		}
		for _, d := range p.documents {
			if d.ref.Digest == p.record.Manifest {
				subjects = append(subjects, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d.ref.Digest, Size: d.ref.Size})
			}
		}
	}
	err := requirement.Verify(ctx, session, r.named, subjects...)
	if err != nil && requirement.DryRun() && ctx.Err() == nil {
		klog.FromContext(ctx).Info("An image would be refused, were the policy in force", "image", reference.FamiliarString(r.named), "reason", err)
		return nil
	}
	return err
}
