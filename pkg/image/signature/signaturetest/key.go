package signaturetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// SimpleType is the media type of the payload of a Simple.
const SimpleType = "application/vnd.dev.cosign.simplesigning.v1+json"

// Key signs.
type Key struct {
	Private *ecdsa.PrivateKey
	// File has the public half, as policies want it.
	File string
}

// NewKey makes a key for one test.
func NewKey(t testing.TB) Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Key{Private: private, File: WritePEM(t, "PUBLIC KEY", der)}
}

// WritePEM writes blocks of one type into a file of the test.
func WritePEM(t testing.TB, block string, ders ...[]byte) (file string) {
	t.Helper()
	var content []byte
	for _, der := range ders {
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der})...)
	}
	file = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Sign returns the signature of content in base64.
func (k Key) Sign(t testing.TB, content []byte) string {
	t.Helper()
	sum := sha256.Sum256(content)
	b, err := k.Private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// Simple is a signature as cosign 2 makes it: a layer of type SimpleType with
// annotations, in a manifest under a tag made of the digest.
type Simple struct {
	Payload     []byte
	Annotations map[string]string
}

// SignSimple signs the manifest with a digest.
func (k Key) SignSimple(t testing.TB, digest string) Simple {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest)
	return Simple{Payload: payload, Annotations: map[string]string{"dev.cosignproject.cosign/signature": k.Sign(t, payload)}}
}
