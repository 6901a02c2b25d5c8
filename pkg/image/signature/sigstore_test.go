package signature

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

func TestSigstoreKeys(t *testing.T) {
	ours, theirs := newSigner(t), newSigner(t)
	other := digest.FromString("another image")
	tests := map[string]struct {
		sign func(t *testing.T, r *repository, image ocispec.Descriptor)
		want string // part of the refusal; "" accepts
	}{
		"no signature": {sign: func(*testing.T, *repository, ocispec.Descriptor) {}, want: "no signature found"},
		"bundle":       {sign: ours.signBundle},
		"simple": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			ours.signSimple(t, r, image, image.Digest)
		}},
		"bundle of another key": {sign: theirs.signBundle, want: "signature"},
		"simple of another key": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			theirs.signSimple(t, r, image, image.Digest)
		}, want: "signature"},
		"a good one after bad ones": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			theirs.signBundle(t, r, image)
			r.refer(t, image, bundleTypePrefix+".v0.3+json", r.add(bundleTypePrefix+".v0.3+json", []byte("{")), nil)
			ours.signBundle(t, r, image)
		}},
		"good simple beside a bad bundle": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			theirs.signBundle(t, r, image)
			ours.signSimple(t, r, image, image.Digest)
		}},
		"bundle for another image": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			ours.attest(t, r, image, statement(t, other, signPredicate))
		}, want: "digest"},
		"simple for another image": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			ours.signSimple(t, r, image, other)
		}, want: "is for image"},
		"provenance is no signature": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			ours.attest(t, r, image, statement(t, image.Digest, "https://slsa.dev/provenance/v1"))
		}, want: "no signature of an image"},
		"bundle without content": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			layer := r.add(bundleTypePrefix+".v0.3+json", []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`))
			r.refer(t, image, layer.MediaType, layer, nil)
		}, want: "bundle"},
		"bundle whose layer is missing": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			layer := ocispec.Descriptor{MediaType: bundleTypePrefix + ".v0.3+json", Digest: other, Size: 3}
			r.refer(t, image, layer.MediaType, layer, nil)
		}, want: "not found"},
		"too many bundles": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			for range maxSignatures + 1 {
				theirs.signBundle(t, r, image)
			}
		}, want: "more than"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRepository()
			image := r.image()
			test.sign(t, r, image)
			err := check(t, Rule{Type: TypeSigstore, Keys: []string{newSigner(t).File, ours.File}}, r, image)
			expect(t, err, test.want)
		})
	}
}

// expect wants a refusal that says want, or none.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("refused: %v", err)
	case want != "" && !errors.Is(err, ErrRefused):
		t.Fatalf("got %v, want a refusal", err)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Fatalf("refused with %q, want it to say %q", err, want)
	case want != "" && strings.Contains(err.Error(), "\n"):
		t.Fatalf("refusal has more than one line: %q", err)
	}
}

func TestOneOfSeveralSubjects(t *testing.T) {
	ours := newSigner(t)
	r := newRepository()
	index, manifest := r.image(), r.image()
	ours.signBundle(t, r, manifest)
	rule := Rule{Type: TypeSigstore, Keys: []string{ours.File}}
	expect(t, check(t, rule, r, index, manifest), "")
	expect(t, check(t, rule, r, index), "no signature found")
}

func TestBrokenRegistryIsNoSignature(t *testing.T) {
	r := newRepository()
	image := r.image()
	r.broken = errors.New("connection refused")
	expect(t, check(t, Rule{Type: TypeSigstore, Keys: []string{newSigner(t).File}}, r, image), "connection refused")
}

// withoutCT is an authority whose certificates are in no log of certificates.
type withoutCT struct{ root.TrustedMaterial }

func (withoutCT) CTLogs() map[string]*root.TransparencyLog { return nil }

// TestCertificates runs the certificate path against authorities and logs in
// memory.
func TestCertificates(t *testing.T) {
	authority, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("manifest")
	const issuer, subject = "https://accounts.example.com", "release@example.com"
	trusting := func(subject string) *sigstoreVerifier {
		v := &sigstoreVerifier{}
		if v.certificates, err = newCertificateVerifier(withoutCT{authority}); err != nil {
			t.Fatal(err)
		}
		id, err := verify.NewShortCertificateIdentity(issuer, "", subject, "")
		if err != nil {
			t.Fatal(err)
		}
		v.identities = []verify.PolicyOption{verify.WithCertificateIdentity(id)}
		return v
	}
	payload := statement(t, digest.FromBytes(content), signPredicate)
	attested, err := authority.Attest(subject, issuer, payload)
	if err != nil {
		t.Fatal(err)
	}
	provenance, err := authority.Attest(subject, issuer, statement(t, digest.FromBytes(content), "https://slsa.dev/provenance/v1"))
	if err != nil {
		t.Fatal(err)
	}
	artifact := verify.WithArtifact(bytes.NewReader(content))
	if err := trusting(subject).entity(attested, artifact, true); err != nil {
		t.Errorf("our signer: %v", err)
	}
	if err := trusting("somebody@example.com").entity(attested, verify.WithArtifact(bytes.NewReader(content)), true); err == nil {
		t.Error("another signer was accepted")
	}
	if err := trusting(subject).entity(provenance, verify.WithArtifact(bytes.NewReader(content)), true); err == nil {
		t.Error("a provenance was taken for a signature")
	}
	if err := trusting(subject).entity(attested, verify.WithArtifact(strings.NewReader("other")), true); err == nil {
		t.Error("a signature of another image was accepted")
	}
}
