package signature

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	notationsigner "github.com/notaryproject/notation-go/signer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/signature/signaturetest"
)

// notary is a certificate authority and one signer below it.
type notary struct {
	root, leaf *x509.Certificate
	key        *ecdsa.PrivateKey
	file       string
}

func newNotary(t *testing.T) *notary {
	t.Helper()
	rootKey, key := newSigner(t).Private, newSigner(t).Private
	root := certificate(t, &x509.Certificate{
		Subject: pkix.Name{Country: []string{"DE"}, Province: []string{"BE"}, Organization: []string{"Test"}, CommonName: "root"},
		IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, rootKey, rootKey)
	leaf := certificate(t, &x509.Certificate{
		Subject:  pkix.Name{Country: []string{"DE"}, Province: []string{"BE"}, Organization: []string{"Test"}, CommonName: "signer"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, root, key, rootKey)
	return &notary{root: root, leaf: leaf, key: key, file: signaturetest.WritePEM(t, "CERTIFICATE", root.Raw)}
}

func certificate(t *testing.T, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sign signs what over says and lets it refer to an image.
func (n *notary) sign(t *testing.T, r *repository, image, over ocispec.Descriptor) {
	t.Helper()
	s, err := notationsigner.NewGenericSigner(n.key, []*x509.Certificate{n.leaf, n.root})
	if err != nil {
		t.Fatal(err)
	}
	envelope, _, err := s.Sign(t.Context(), over, notation.SignerSignOptions{SignatureMediaType: jws.MediaTypeEnvelope})
	if err != nil {
		t.Fatal(err)
	}
	r.refer(t, image, notationArtifactType, r.add(jws.MediaTypeEnvelope, envelope), nil)
}

func TestNotation(t *testing.T) {
	ours, theirs := newNotary(t), newNotary(t)
	tests := map[string]struct {
		sign     func(t *testing.T, r *repository, image ocispec.Descriptor)
		subjects []string
		want     string
	}{
		"no signature": {sign: func(*testing.T, *repository, ocispec.Descriptor) {}, want: "no signature found"},
		"ours":         {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) { ours.sign(t, r, image, image) }},
		"another authority": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			theirs.sign(t, r, image, image)
		}, want: "SignatureValidationFailed"},
		"another image": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			ours.sign(t, r, image, r.image())
		}, want: "SignatureValidationFailed"},
		"our signer": {
			sign:     func(t *testing.T, r *repository, image ocispec.Descriptor) { ours.sign(t, r, image, image) },
			subjects: []string{"x509.subject: C=DE, ST=BE, O=Test, CN=signer"},
		},
		"another signer": {
			sign:     func(t *testing.T, r *repository, image ocispec.Descriptor) { ours.sign(t, r, image, image) },
			subjects: []string{"x509.subject: C=DE, ST=BE, O=Test, CN=other"},
			want:     "SignatureValidationFailed",
		},
		"garbage": {sign: func(t *testing.T, r *repository, image ocispec.Descriptor) {
			r.refer(t, image, notationArtifactType, r.add(jws.MediaTypeEnvelope, []byte("{}")), nil)
		}, want: "SignatureValidationFailed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRepository()
			image := r.image()
			test.sign(t, r, image)
			expect(t, check(t, Rule{Type: TypeNotation, Certificates: []string{ours.file}, Subjects: test.subjects}, r, image), test.want)
		})
	}
}

func TestOtherCurve(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load([]Rule{{Type: TypeSigstore, Keys: []string{signaturetest.WritePEM(t, "PUBLIC KEY", der)}}}); err != nil {
		t.Fatal(err)
	}
}
