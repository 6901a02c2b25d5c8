package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/signature"
	"github.com/cri-node/cri-node/pkg/image/signature/signaturetest"
)

// cosign signs a digest of a repository as cosign 2 does.
func cosign(t *testing.T, f *fakeRegistry, repo string, key signaturetest.Key, d digest.Digest) {
	t.Helper()
	simple := key.SignSimple(t, d.String())
	f.manifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: f.blob([]byte("{}")), Size: 2},
		Layers: []ocispec.Descriptor{{
			MediaType: signaturetest.SimpleType, Digest: f.blob(simple.Payload), Size: int64(len(simple.Payload)), Annotations: simple.Annotations,
		}},
	}, repo, strings.Replace(d.String(), ":", "-", 1)+".sig")
}

// TestSignaturePolicy: an image that is refused never becomes visible, and one
// that is there already is judged all the same.
func TestSignaturePolicy(t *testing.T) {
	f := newFakeRegistry(t)
	key := signaturetest.NewKey(t)
	layers := []fakeLayer{gzipLayer(map[string]string{"a": "1"})}
	signed := f.push("team/signed", ocispec.Image{}, layers, "1")
	f.push("team/plain", ocispec.Image{Author: "somebody"}, layers, "1")
	cosign(t, f, "team/signed", key, signed.Digest)

	load := func(rules ...signature.Rule) *signature.Policy {
		p, err := signature.Load(rules)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	strict := signature.Rule{Prefix: f.host() + "/team", Type: signature.TypeSigstore, Keys: []string{key.File}}
	root := t.TempDir()
	s := open(t, root, func(c *Config) { c.Policy = load(strict) })
	pull(t, s, f.host()+"/team/signed:1")

	plain := PullRequest{Ref: f.host() + "/team/plain:1"}
	refused := func(when string, r PullRequest) {
		t.Helper()
		_, err := s.Pull(t.Context(), r)
		if !errors.Is(err, ErrSignature) || !strings.HasPrefix(err.Error(), "SignatureValidationFailed: ") {
			t.Fatalf("%s: got %v, want a refusal", when, err)
		}
	}
	refused("not there", plain)
	if n := len(s.List()); n != 1 {
		t.Fatalf("%d images after a refusal, want 1", n)
	}
	checkClean(t, root, 0)

	free := signature.Rule{Namespace: "free", Type: signature.TypeAccept}
	s.SetPolicy(load(strict, free))
	refused("for another namespace", PullRequest{Ref: plain.Ref, Namespace: "other"})
	if _, err := s.Pull(t.Context(), PullRequest{Ref: plain.Ref, Namespace: "free"}); err != nil {
		t.Fatalf("for the free namespace: %v", err)
	}
	refused("there already", plain)

	trial := strict
	trial.DryRun = true
	s.SetPolicy(load(trial))
	pull(t, s, plain.Ref)
	s.SetPolicy(nil)
	pull(t, s, plain.Ref)
}

// TestSignatureOfPlatform: the signature may be over the manifest in an index.
func TestSignatureOfPlatform(t *testing.T) {
	f := newFakeRegistry(t)
	key := signaturetest.NewKey(t)
	img := f.push("team/app", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"a": "1"})})
	desc := img.Descriptor
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: img.config.Architecture}
	f.manifest(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{desc}}, "team/app", "1")
	policy, err := signature.Load([]signature.Rule{{Type: signature.TypeSigstore, Keys: []string{key.File}}})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), func(c *Config) { c.Policy = policy })
	if _, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/team/app:1"}); !errors.Is(err, ErrSignature) {
		t.Fatalf("without a signature: %v", err)
	}
	cosign(t, f, "team/app", key, img.Digest)
	pull(t, s, f.host()+"/team/app:1")
}
