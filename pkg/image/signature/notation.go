package signature

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/distribution/reference"
	"github.com/notaryproject/notation-go"
	notationregistry "github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// trustStoreName is what the only trust store of a rule is called in the trust
// policy made of it.
const trustStoreName = "rule"

// notationVerifier holds what one rule believes.
type notationVerifier struct{ verifier notation.Verifier }

func newNotationVerifier(r Rule) (*notationVerifier, error) {
	store := certificateStore{}
	for _, file := range r.Certificates {
		certificates, err := readCertificates(file)
		if err != nil {
			return nil, err
		}
		store = append(store, certificates...)
	}
	subjects := r.Subjects
	if len(subjects) == 0 {
		subjects = []string{"*"}
	}
	policy := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name:           trustStoreName,
		RegistryScopes: []string{"*"},
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			// Nothing outside this machine is asked.
			Override: map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
		},
		TrustStores:       []string{string(truststore.TypeCA) + ":" + trustStoreName},
		TrustedIdentities: subjects,
	}}}
	v, err := verifier.NewWithOptions(policy, store, nil, verifier.VerifierOptions{})
	if err != nil {
		return nil, fmt.Errorf("notation: %w", err)
	}
	return &notationVerifier{verifier: v}, nil
}

// readCertificates reads the PEM certificates of a file.
func readCertificates(file string) ([]*x509.Certificate, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	certificates, err := parseCertificates(content)
	if err != nil {
		return nil, fmt.Errorf("certificates %s: %w", file, err)
	}
	if err := truststore.ValidateCertificates(certificates); err != nil {
		return nil, fmt.Errorf("certificates %s: %w", file, err)
	}
	return certificates, nil
}

// certificateStore is a trust store with one rule's certificates.
type certificateStore []*x509.Certificate

// GetCertificates implements truststore.X509TrustStore.
func (s certificateStore) GetCertificates(_ context.Context, storeType truststore.Type, name string) ([]*x509.Certificate, error) {
	if storeType != truststore.TypeCA || name != trustStoreName {
		return nil, fmt.Errorf("there is no trust store %s:%s", storeType, name)
	}
	return s, nil
}

func (v *notationVerifier) verify(ctx context.Context, src Source, name reference.Named, subject ocispec.Descriptor) error {
	ref := reference.TrimNamed(name).String() + "@" + subject.Digest.String()
	repository := &notationRepository{src: src, subject: subject}
	_, _, err := notation.Verify(ctx, v.verifier, repository, notation.VerifyOptions{
		ArtifactReference: ref, MaxSignatureAttempts: maxSignatures,
	})
	switch {
	case repository.err != nil:
		return repository.err
	case err != nil && repository.found == 0:
		return errNone
	}
	return err
}

// notationArtifactType is that of the manifests that carry signatures.
const notationArtifactType = notationregistry.ArtifactTypeNotation

// notationRepository gives the library the signatures of one image.
type notationRepository struct {
	src     Source
	subject ocispec.Descriptor
	found   int
	// err is what went wrong with the registry; the library would take it for
	// an image without signatures.
	err error
}

// Resolve implements notationregistry.Repository. The image has been resolved
// before.
func (r *notationRepository) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return r.subject, nil
}

// ListSignatures implements notationregistry.Repository.
func (r *notationRepository) ListSignatures(ctx context.Context, desc ocispec.Descriptor, fn func([]ocispec.Descriptor) error) error {
	list, err := r.src.Referrers(ctx, desc.Digest, notationArtifactType)
	if err != nil {
		r.err = fmt.Errorf("list referrers: %w", err)
		return r.err
	}
	var signatures []ocispec.Descriptor
	for _, d := range list {
		if d.ArtifactType == notationArtifactType {
			signatures = append(signatures, d)
		}
	}
	r.found = len(signatures)
	return fn(signatures)
}

// FetchSignatureBlob implements notationregistry.Repository.
func (r *notationRepository) FetchSignatureBlob(ctx context.Context, desc ocispec.Descriptor) ([]byte, ocispec.Descriptor, error) {
	manifest, err := readManifest(ctx, r.src, desc)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	if len(manifest.Layers) != 1 {
		return nil, ocispec.Descriptor{}, fmt.Errorf("signature manifest %s has %d layers, want 1", desc.Digest, len(manifest.Layers))
	}
	content, err := r.src.Read(ctx, manifest.Layers[0], maxEnvelopeSize)
	return content, manifest.Layers[0], err
}

// PushSignature implements notationregistry.Repository.
func (r *notationRepository) PushSignature(context.Context, string, []byte, ocispec.Descriptor, map[string]string) (blob, manifest ocispec.Descriptor, err error) {
	return blob, manifest, errors.ErrUnsupported
}
