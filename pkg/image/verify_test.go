package image

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/signature"
)

// cosign signs a digest of a repository as cosign 2 does.
func cosign(t *testing.T, f *fakeRegistry, repo string, key *ecdsa.PrivateKey, d digest.Digest) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":{}}`, d)
	sum := sha256.Sum256(payload)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	f.manifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: f.blob([]byte("{}")), Size: 2},
		Layers: []ocispec.Descriptor{{
			MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: f.blob(payload), Size: int64(len(payload)),
			Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
		}},
	}, repo, strings.Replace(d.String(), ":", "-", 1)+".sig")
}

func signingKey(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, file
}

// TestSignaturePolicy: an image that is refused never becomes visible, and one
// that is there already is judged all the same.
func TestSignaturePolicy(t *testing.T) {
	f := newFakeRegistry(t)
	key, file := signingKey(t)
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
	strict := signature.Rule{Prefix: f.host() + "/team", Type: signature.TypeSigstore, Keys: []string{file}}
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
	key, file := signingKey(t)
	img := f.push("team/app", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"a": "1"})})
	desc := img.Descriptor
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: img.config.Architecture}
	f.manifest(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{desc}}, "team/app", "1")
	policy, err := signature.Load([]signature.Rule{{Type: signature.TypeSigstore, Keys: []string{file}}})
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
