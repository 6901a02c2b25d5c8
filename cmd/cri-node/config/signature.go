package config

import (
	"fmt"

	"github.com/cri-node/cri-node/pkg/image/signature"
)

// Signature is one rule about which images may be used. The meaning of its
// fields is that of signature.Rule.
type Signature struct {
	Prefix       string     `toml:"prefix"`
	Namespace    string     `toml:"namespace"`
	Type         string     `toml:"type"`
	DryRun       bool       `toml:"dry_run"`
	Keys         []string   `toml:"keys"`
	TrustedRoot  string     `toml:"trusted_root"`
	Identities   []Identity `toml:"identities"`
	Certificates []string   `toml:"certificates"`
	Subjects     []string   `toml:"subjects"`
}

// Identity is what a signer's certificate must say.
type Identity struct {
	Issuer        string `toml:"issuer"`
	IssuerRegexp  string `toml:"issuer_regexp"`
	Subject       string `toml:"subject"`
	SubjectRegexp string `toml:"subject_regexp"`
}

// SignatureRules are the rules in the form the image store takes.
func (i Image) SignatureRules() []signature.Rule {
	rules := make([]signature.Rule, 0, len(i.Signatures))
	for _, s := range i.Signatures {
		r := signature.Rule{
			Prefix: s.Prefix, Namespace: s.Namespace, Type: s.Type, DryRun: s.DryRun,
			Keys: s.Keys, TrustedRoot: s.TrustedRoot, Certificates: s.Certificates, Subjects: s.Subjects,
		}
		for _, id := range s.Identities {
			r.Identities = append(r.Identities, signature.Identity{
				Issuer: id.Issuer, IssuerRegexp: id.IssuerRegexp, Subject: id.Subject, SubjectRegexp: id.SubjectRegexp,
			})
		}
		rules = append(rules, r)
	}
	return rules
}

// signatures checks the rules themselves; their files are read when the daemon
// starts.
func (v *validator) signatures(i Image) {
	for n, r := range i.SignatureRules() {
		v.check(fmt.Sprintf("image.signatures[%d]", n), r.Validate())
	}
}
