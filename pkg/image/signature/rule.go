package signature

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// The values of Rule.Type.
const (
	TypeAccept   = "accept"
	TypeReject   = "reject"
	TypeSigstore = "sigstore"
	TypeNotation = "notation"
)

// Rule says what the images under a prefix must carry.
type Rule struct {
	// Prefix is a registry, or a registry and a path, in the full form of
	// image names ("docker.io/library"). It matches whole path elements;
	// "" matches every image.
	Prefix string
	// Namespace limits the rule to pulls for pods of that namespace.
	Namespace string
	// Type is one of the Type constants.
	Type string
	// DryRun lets an image pass that the rule refuses, and reports it.
	DryRun bool

	// Keys are PEM files with public keys, of which one must have signed
	// (sigstore).
	Keys []string
	// TrustedRoot is a trusted_root.json with the certificate authorities and
	// logs to believe, and Identities are whose certificates count (sigstore,
	// in place of or beside Keys).
	TrustedRoot string
	Identities  []Identity

	// Certificates are PEM files with the roots of signers' certificates
	// (notation), and Subjects are the signers, such as
	// "x509.subject: C=US, ST=WA, O=example". No subject means any.
	Certificates []string
	Subjects     []string
}

// Identity is what a signer's certificate must say. The Regexp forms match in
// place of the exact ones.
type Identity struct {
	Issuer, IssuerRegexp   string
	Subject, SubjectRegexp string
}

// Validate checks what can be checked without opening a file.
func (r Rule) Validate() error {
	var errs []error
	complain := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	switch r.Type {
	case TypeAccept, TypeReject:
		complain(r.asksSigstore() || r.asksNotation(), "type %q takes no keys and no certificates", r.Type)
	case TypeSigstore:
		complain(len(r.Keys) == 0 && r.TrustedRoot == "", "type %q needs keys or trusted_root", r.Type)
		complain((r.TrustedRoot == "") != (len(r.Identities) == 0), "trusted_root and identities need each other")
		complain(r.asksNotation(), "type %q takes no certificates and no subjects", r.Type)
	case TypeNotation:
		complain(len(r.Certificates) == 0, "type %q needs certificates", r.Type)
		complain(r.asksSigstore(), "type %q takes no keys, trusted_root or identities", r.Type)
	default:
		complain(true, "type is %q, want %s, %s, %s or %s", r.Type, TypeSigstore, TypeNotation, TypeAccept, TypeReject)
	}
	for i, id := range r.Identities {
		complain((id.Issuer == "") == (id.IssuerRegexp == ""), "identities[%d]: needs one of issuer and issuer_regexp", i)
		complain((id.Subject == "") == (id.SubjectRegexp == ""), "identities[%d]: needs one of subject and subject_regexp", i)
	}
	if r.Prefix != "" {
		// What reference.ParseNamed takes is exactly the full form.
		if named, err := reference.ParseNamed(r.Prefix + "/x/y"); err != nil || reference.TrimNamed(named).String() != r.Prefix+"/x/y" {
			complain(true, "prefix %q is not the full form of a registry or repository, such as registry.example.com/team", r.Prefix)
		}
	}
	return errors.Join(errs...)
}

func (r Rule) asksSigstore() bool {
	return len(r.Keys)+len(r.Identities) > 0 || r.TrustedRoot != ""
}

func (r Rule) asksNotation() bool { return len(r.Certificates)+len(r.Subjects) > 0 }

// matches reports whether the rule is about a repository.
func (r Rule) matches(repository string) bool {
	rest, ok := strings.CutPrefix(repository, r.Prefix)
	return ok && (r.Prefix == "" || rest == "" || rest[0] == '/')
}
