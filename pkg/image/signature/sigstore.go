package signature

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
)

// The forms in which signatures are found in a registry.
const (
	bundleTypePrefix   = "application/vnd.dev.sigstore.bundle"
	simpleSigningType  = "application/vnd.dev.cosign.simplesigning.v1+json"
	simpleSignatureKey = "dev.cosignproject.cosign/signature"
	// signPredicate is the statement "this image is ours", in contrast to the
	// attestations that the same key may have signed.
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
)

// sigstoreVerifier holds what one rule believes.
type sigstoreVerifier struct {
	// keys has one verifier for each public key.
	keys []*verify.Verifier
	// certificates verifies by trusted root; nil without.
	certificates *verify.Verifier
	identities   []verify.PolicyOption
}

func newSigstoreVerifier(r Rule) (*sigstoreVerifier, error) {
	v := &sigstoreVerifier{}
	for _, file := range r.Keys {
		key, err := loadKey(file)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, key)
	}
	if r.TrustedRoot == "" {
		return v, nil
	}
	trusted, err := root.NewTrustedRootFromPath(r.TrustedRoot)
	if err != nil {
		return nil, fmt.Errorf("read trusted root %s: %w", r.TrustedRoot, err)
	}
	if v.certificates, err = newCertificateVerifier(trusted); err != nil {
		return nil, fmt.Errorf("trusted root %s: %w", r.TrustedRoot, err)
	}
	for i, id := range r.Identities {
		identity, err := verify.NewShortCertificateIdentity(id.Issuer, id.IssuerRegexp, id.Subject, id.SubjectRegexp)
		if err != nil {
			return nil, fmt.Errorf("identities[%d]: %w", i, err)
		}
		v.identities = append(v.identities, verify.WithCertificateIdentity(identity))
	}
	return v, nil
}

// loadKey makes a verifier of a PEM file with a public key. Signatures with a
// key carry no time that anybody vouches for, and need none: a key has no
// validity period.
func loadKey(file string) (*verify.Verifier, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	public, err := parsePublicKey(content)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", file, err)
	}
	key, err := sigstore.LoadDefaultVerifier(public)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", file, err)
	}
	// The hint in a bundle says which key its maker meant; each key is tried.
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(key, time.Time{}, time.Time{}), nil
	})
	return verify.NewVerifier(material, verify.WithNoObserverTimestamps())
}

// newCertificateVerifier asks for every kind of proof that the trusted root
// can check: a certificate is valid for minutes, so that without a proven time
// of signing it says nothing.
func newCertificateVerifier(trusted root.TrustedMaterial) (*verify.Verifier, error) {
	var options []verify.VerifierOption
	if len(trusted.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	if len(trusted.RekorLogs()) > 0 {
		options = append(options, verify.WithTransparencyLog(1))
	}
	switch {
	case len(trusted.RekorLogs())+len(trusted.TimestampingAuthorities()) > 0:
		options = append(options, verify.WithObserverTimestamps(1))
	default:
		options = append(options, verify.WithCurrentTime())
	}
	return verify.NewVerifier(trusted, options...)
}

// verify looks for one valid signature.
func (v *sigstoreVerifier) verify(ctx context.Context, src Source, _ reference.Named, subject ocispec.Descriptor) error {
	bundles, err := v.bundles(ctx, src, subject.Digest)
	if err == nil {
		return nil
	}
	simple, simpleErr := v.simpleSignatures(ctx, src, subject.Digest)
	if simpleErr == nil {
		return nil
	}
	switch {
	case bundles+simple == 0 && errors.Is(err, errNone) && errors.Is(simpleErr, errNone):
		return errNone
	case bundles == 0 && errors.Is(err, errNone):
		return simpleErr
	case simple == 0 && errors.Is(simpleErr, errNone):
		return err
	}
	return errors.Join(err, simpleErr)
}

// bundles tries the sigstore bundles that refer to the image and says how many
// there were.
func (v *sigstoreVerifier) bundles(ctx context.Context, src Source, subject digest.Digest) (int, error) {
	list, err := src.Referrers(ctx, subject)
	if err != nil {
		return 0, fmt.Errorf("list referrers: %w", err)
	}
	tried, errs := 0, []error(nil)
	for _, desc := range list {
		if !strings.HasPrefix(desc.ArtifactType, bundleTypePrefix) {
			continue
		}
		if tried++; tried > maxSignatures {
			errs = append(errs, fmt.Errorf("more than %d bundles", maxSignatures))
			break
		}
		if err := v.bundle(ctx, src, subject, desc); err != nil {
			errs = append(errs, fmt.Errorf("bundle %s: %w", desc.Digest, err))
			continue
		}
		return tried, nil
	}
	if tried == 0 {
		return 0, errNone
	}
	return tried, errors.Join(errs...)
}

func (v *sigstoreVerifier) bundle(ctx context.Context, src Source, subject digest.Digest, desc ocispec.Descriptor) error {
	manifest, err := readManifest(ctx, src, desc)
	if err != nil {
		return err
	}
	if len(manifest.Layers) != 1 || !strings.HasPrefix(manifest.Layers[0].MediaType, bundleTypePrefix) {
		return errors.New("manifest has no layer that is a sigstore bundle")
	}
	content, err := src.Read(ctx, manifest.Layers[0], maxEnvelopeSize)
	if err != nil {
		return err
	}
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(content); err != nil {
		return fmt.Errorf("decode bundle: %w", err)
	}
	artifact, err := artifactDigest(subject)
	if err != nil {
		return err
	}
	return v.entity(b, artifact, true)
}

// entity verifies one signature over an artifact. statements says that the
// signature may be an in-toto statement, which then must be the one that
// signs images.
func (v *sigstoreVerifier) entity(e verify.SignedEntity, artifact verify.ArtifactPolicyOption, statements bool) error {
	var errs []error
	check := func(by *verify.Verifier, who ...verify.PolicyOption) bool {
		result, err := by.Verify(e, verify.NewPolicy(artifact, who...))
		switch {
		case err != nil:
		case result.Statement == nil:
			return true
		case statements && result.Statement.GetPredicateType() == signPredicate:
			return true
		default:
			err = fmt.Errorf("is a statement of type %q, which is no signature of an image", result.Statement.GetPredicateType())
		}
		errs = append(errs, err)
		return false
	}
	for _, key := range v.keys {
		if check(key, verify.WithKey()) {
			return nil
		}
	}
	if v.certificates != nil && check(v.certificates, v.identities...) {
		return nil
	}
	return errors.Join(errs...)
}

// simpleSigning is what cosign 2 signs: the payload that names the image.
type simpleSigning struct {
	Critical struct {
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
}

// simpleSignatures tries the signatures under the tag that cosign 2 gives
// them. Only keys can verify them here: what proves a certificate is spread
// over annotations of its own.
func (v *sigstoreVerifier) simpleSignatures(ctx context.Context, src Source, subject digest.Digest) (int, error) {
	if len(v.keys) == 0 {
		return 0, errNone
	}
	desc, err := src.ResolveTag(ctx, strings.Replace(subject.String(), ":", "-", 1)+".sig")
	if errdefs.IsNotFound(err) {
		return 0, errNone
	}
	if err != nil {
		return 0, fmt.Errorf("look for cosign signatures: %w", err)
	}
	manifest, err := readManifest(ctx, src, desc)
	if err != nil {
		return 0, err
	}
	tried, errs := 0, []error(nil)
	for _, layer := range manifest.Layers {
		if layer.MediaType != simpleSigningType {
			continue
		}
		if tried++; tried > maxSignatures {
			errs = append(errs, fmt.Errorf("more than %d signatures", maxSignatures))
			break
		}
		if err := v.simpleSignature(ctx, src, subject, layer); err != nil {
			errs = append(errs, fmt.Errorf("signature %s: %w", layer.Digest, err))
			continue
		}
		return tried, nil
	}
	if tried == 0 {
		return 0, errNone
	}
	return tried, errors.Join(errs...)
}

func (v *sigstoreVerifier) simpleSignature(ctx context.Context, src Source, subject digest.Digest, layer ocispec.Descriptor) error {
	signature, err := base64.StdEncoding.DecodeString(layer.Annotations[simpleSignatureKey])
	if err != nil || len(signature) == 0 {
		return fmt.Errorf("annotation %s is no signature", simpleSignatureKey)
	}
	payload, err := src.Read(ctx, layer, maxManifestSize)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(payload)
	b := &bundle.Bundle{Bundle: &protobundle.Bundle{
		MediaType: bundleTypePrefix + ".v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
		},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     signature,
		}},
	}}
	keysOnly := &sigstoreVerifier{keys: v.keys}
	if err := keysOnly.entity(b, verify.WithArtifactDigest("sha256", sum[:]), false); err != nil {
		return err
	}
	// Only now is the payload worth reading.
	var signed simpleSigning
	if err := json.Unmarshal(payload, &signed); err != nil {
		return fmt.Errorf("decode payload: %w", err)
	}
	if signed.Critical.Image.Digest != subject.String() {
		return fmt.Errorf("is for image %q", signed.Critical.Image.Digest)
	}
	return nil
}

func artifactDigest(d digest.Digest) (verify.ArtifactPolicyOption, error) {
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return nil, fmt.Errorf("digest %s: %w", d, err)
	}
	return verify.WithArtifactDigest(d.Algorithm().String(), raw), nil
}

func readManifest(ctx context.Context, src Source, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	content, err := src.Read(ctx, desc, maxManifestSize)
	if err != nil {
		return nil, err
	}
	m := &ocispec.Manifest{}
	if err := json.Unmarshal(content, m); err != nil {
		return nil, fmt.Errorf("decode manifest %s: %w", desc.Digest, err)
	}
	return m, nil
}
