package signature

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"
)

// ErrRefused means that an image does not carry what the policy asks for. Its
// text is what kubelet looks for at the beginning of an error
// (k8s.io/cri-api/pkg/errors, ErrSignatureValidationFailed).
var ErrRefused = errors.New("SignatureValidationFailed")

// Source is where an image's signatures are: its repository.
type Source interface {
	// Referrers lists the manifests whose subject is the digest, of the given
	// artifact types if any are given.
	Referrers(ctx context.Context, subject digest.Digest, artifactTypes ...string) ([]ocispec.Descriptor, error)
	// ResolveTag finds a manifest by its tag; errdefs.ErrNotFound where there
	// is none.
	ResolveTag(ctx context.Context, tag string) (ocispec.Descriptor, error)
	// Read returns the content of a descriptor, which has its digest and is
	// no longer than limit.
	Read(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error)
}

// Policy is what images have to fulfil. The nil Policy accepts all.
type Policy struct{ requirements []*Requirement }

// Requirement is what one rule asks of an image.
type Requirement struct {
	rule   Rule
	verify func(ctx context.Context, src Source, name reference.Named, subject ocispec.Descriptor) error
}

// Load makes a policy of rules, reading all files they name. A rule that
// cannot be enforced is an error that names it.
func Load(rules []Rule) (*Policy, error) {
	p := &Policy{}
	var errs []error
	seen := map[[2]string]bool{}
	for i, r := range rules {
		requirement, err := load(r)
		if key := [2]string{r.Namespace, r.Prefix}; seen[key] {
			err = errors.Join(err, errors.New("another rule has the same prefix and namespace"))
		} else {
			seen[key] = true
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("signature rule %d (prefix %q): %w", i+1, r.Prefix, err))
			continue
		}
		p.requirements = append(p.requirements, requirement)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

func load(r Rule) (*Requirement, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	q := &Requirement{rule: r}
	switch r.Type {
	case TypeSigstore:
		v, err := newSigstoreVerifier(r)
		if err != nil {
			return nil, err
		}
		q.verify = v.verify
	case TypeNotation:
		v, err := newNotationVerifier(r)
		if err != nil {
			return nil, err
		}
		q.verify = v.verify
	case TypeReject:
		q.verify = func(context.Context, Source, reference.Named, ocispec.Descriptor) error {
			return errors.New("images under this prefix are not allowed")
		}
	}
	return q, nil
}

// For finds what the policy asks of an image that is pulled for a pod of a
// namespace, "" where that is not known. Nil is nothing.
func (p *Policy) For(name reference.Named, namespace string) *Requirement {
	if p == nil {
		return nil
	}
	var best *Requirement
	for _, q := range p.requirements {
		r := q.rule
		if !r.matches(name.Name()) || r.Namespace != "" && r.Namespace != namespace {
			continue
		}
		if best == nil || better(r, best.rule) {
			best = q
		}
	}
	if best == nil || best.verify == nil {
		return nil
	}
	return best
}

func better(a, b Rule) bool {
	if (a.Namespace != "") != (b.Namespace != "") {
		return a.Namespace != ""
	}
	return len(a.Prefix) > len(b.Prefix)
}

// DryRun reports whether a refusal is to be reported only.
func (q *Requirement) DryRun() bool { return q.rule.DryRun }

// Verify checks the signatures of the image that a name stands for. A refusal
// is an ErrRefused; anything else could not be found out, and the image must
// not be used either. The image's digest may be that of an index or of a
// manifest in it: subjects holds what a signature may be over, and one valid
// signature over one of them is enough.
func (q *Requirement) Verify(ctx context.Context, src Source, name reference.Named, subjects ...ocispec.Descriptor) error {
	errs := make([]error, 0, len(subjects))
	for _, subject := range subjects {
		err := q.verify(ctx, src, name, subject)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", subject.Digest, err))
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	// One line: it ends up in the status of a pod.
	text := strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
	return fmt.Errorf("%w: policy %s for %q: %s", ErrRefused, q.rule.Type, q.rule.Prefix, text)
}

// errNone is the refusal of an image without any signature.
var errNone = errors.New("no signature found")

// Bounds on what a registry may make us read for one image.
const (
	maxSignatures   = 32
	maxManifestSize = 1 << 20
	maxEnvelopeSize = 4 << 20
)
