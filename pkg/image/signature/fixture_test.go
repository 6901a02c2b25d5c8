package signature

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/cri-node/cri-node/pkg/image/signature/signaturetest"
)

// repository is a Source in memory.
type repository struct {
	blobs     map[digest.Digest][]byte
	referrers map[digest.Digest][]ocispec.Descriptor
	tags      map[string]ocispec.Descriptor
	// broken fails every call.
	broken error
}

func newRepository() *repository {
	return &repository{
		blobs: map[digest.Digest][]byte{}, referrers: map[digest.Digest][]ocispec.Descriptor{}, tags: map[string]ocispec.Descriptor{},
	}
}

func (r *repository) Referrers(_ context.Context, subject digest.Digest, types ...string) ([]ocispec.Descriptor, error) {
	if r.broken != nil {
		return nil, r.broken
	}
	var list []ocispec.Descriptor
	for _, d := range r.referrers[subject] {
		if len(types) == 0 || slices.Contains(types, d.ArtifactType) {
			list = append(list, d)
		}
	}
	return list, nil
}

func (r *repository) ResolveTag(_ context.Context, tag string) (ocispec.Descriptor, error) {
	d, ok := r.tags[tag]
	if !ok {
		return d, errdefs.ErrNotFound
	}
	return d, r.broken
}

func (r *repository) Read(_ context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	b, ok := r.blobs[desc.Digest]
	if !ok || int64(len(b)) > limit {
		return nil, errdefs.ErrNotFound
	}
	return b, r.broken
}

func (r *repository) add(mediaType string, content []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	r.blobs[d.Digest] = content
	return d
}

// image adds an image manifest, of which only the digest matters.
func (r *repository) image() ocispec.Descriptor {
	return r.add(ocispec.MediaTypeImageManifest, []byte(rand.Text()))
}

// refer adds a manifest with one layer that refers to an image.
func (r *repository) refer(t *testing.T, to ocispec.Descriptor, artifactType string, layer ocispec.Descriptor, annotations map[string]string) {
	t.Helper()
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{layer}, Subject: &to, Annotations: annotations,
	}
	d := r.add(ocispec.MediaTypeImageManifest, encode(t, m))
	d.ArtifactType = artifactType
	r.referrers[to.Digest] = append(r.referrers[to.Digest], d)
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signer signs images in a repository.
type signer struct{ signaturetest.Key }

func newSigner(t *testing.T) *signer {
	t.Helper()
	return &signer{signaturetest.NewKey(t)}
}

// statement is an in-toto statement about a subject.
func statement(t *testing.T, subject digest.Digest, predicate string) []byte {
	t.Helper()
	return encode(t, map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"name": "", "digest": map[string]string{"sha256": subject.Encoded()}}},
		"predicateType": predicate,
		"predicate":     map[string]any{},
	})
}

const inTotoType = "application/vnd.in-toto+json"

// bundle makes a sigstore bundle of a statement.
func (s *signer) bundle(t *testing.T, payload []byte) []byte {
	t.Helper()
	return encode(t, map[string]any{
		"mediaType":            bundleTypePrefix + ".v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": "any"}},
		"dsseEnvelope": map[string]any{
			"payload": payload, "payloadType": inTotoType,
			"signatures": []any{map[string]string{"sig": s.Sign(t, dsse.PAE(inTotoType, payload))}},
		},
	})
}

// signBundle signs an image as cosign 3 does.
func (s *signer) signBundle(t *testing.T, r *repository, image ocispec.Descriptor) {
	t.Helper()
	s.attest(t, r, image, statement(t, image.Digest, signPredicate))
}

func (s *signer) attest(t *testing.T, r *repository, image ocispec.Descriptor, payload []byte) {
	t.Helper()
	layer := r.add(bundleTypePrefix+".v0.3+json", s.bundle(t, payload))
	r.refer(t, image, layer.MediaType, layer, nil)
}

// signSimple signs an image as cosign 2 does. The payload names digest.
func (s *signer) signSimple(t *testing.T, r *repository, image ocispec.Descriptor, names digest.Digest) {
	t.Helper()
	simple := s.SignSimple(t, names.String())
	layer := r.add(signaturetest.SimpleType, simple.Payload)
	layer.Annotations = simple.Annotations
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{layer}}
	r.tags[strings.Replace(image.Digest.String(), ":", "-", 1)+".sig"] = r.add(ocispec.MediaTypeImageManifest, encode(t, m))
}

func parse(t *testing.T, name string) reference.Named {
	t.Helper()
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return reference.TagNameOnly(named)
}

// check asks a policy of one rule about an image.
func check(t *testing.T, rule Rule, r Source, subjects ...ocispec.Descriptor) error {
	t.Helper()
	p, err := Load([]Rule{rule})
	if err != nil {
		t.Fatal(err)
	}
	name := parse(t, "registry.example.com/team/app")
	return p.For(name, "").Verify(t.Context(), r, name, subjects...)
}
