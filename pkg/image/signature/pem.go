package signature

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// parsePublicKey reads the one public key of a PEM file, in PKIX form.
func parsePublicKey(content []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(content)
	switch {
	case block == nil:
		return nil, errors.New("is not PEM")
	case block.Type != "PUBLIC KEY":
		return nil, fmt.Errorf("has a block of type %q, want PUBLIC KEY", block.Type)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("has more than one block")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// parseCertificates reads all certificates of a PEM file.
func parseCertificates(content []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a block of type %q, want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("is not PEM")
	}
	return list, nil
}
