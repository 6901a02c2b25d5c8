package image

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	// The algorithms that digest.Validate may know of.
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// minIDPrefix is the shortest piece of an ID that may stand for it.
const minIDPrefix = 3

// maxReference bounds what is parsed as a reference at all.
const maxReference = 1024

var (
	hexID     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hexPrefix = regexp.MustCompile(`^[0-9a-f]+$`)
)

// ParseReference normalises an image name the way docker does: "busybox" is
// docker.io/library/busybox:latest, and of name:tag@digest the digest counts.
// An ID is not a name.
func ParseReference(ref string) (reference.Named, error) {
	if len(ref) > maxReference {
		return nil, fmt.Errorf("image reference of %d bytes, at most %d are allowed: %w", len(ref), maxReference, errdefs.ErrInvalidArgument)
	}
	if _, ok := parseID(ref); ok {
		return nil, fmt.Errorf("%q is an image id, not a name: %w", ref, errdefs.ErrInvalidArgument)
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	if d, ok := named.(reference.Digested); ok {
		if err := validateDigest(d.Digest()); err != nil {
			return nil, fmt.Errorf("image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
		}
	}
	return named, nil
}

// parseID recognises a full ID in both of its forms.
func parseID(ref string) (digest.Digest, bool) {
	if hexID.MatchString(ref) {
		return digest.NewDigestFromEncoded(digest.SHA256, ref), true
	}
	if d := digest.Digest(ref); strings.HasPrefix(ref, "sha256:") || strings.HasPrefix(ref, "sha512:") {
		return d, validateDigest(d) == nil
	}
	return "", false
}

// parseIDPrefix recognises what may be the beginning of an ID, and returns the
// hex digits it begins with.
func parseIDPrefix(ref string) (string, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < minIDPrefix || len(hex) > 64 || !hexPrefix.MatchString(hex) {
		return "", false
	}
	return hex, true
}

// validateDigest allows sha256 and sha512 with exactly their number of lower
// case hex digits: nothing else may become part of a path or URL
// (CVE-2024-3727).
func validateDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.80q: %w", string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %.80q: %w", string(d), digest.ErrDigestUnsupported)
	}
	return nil
}

// pinned reports whether one of the patterns matches a name of an image. A *
// stands for any characters; a pattern without one is a name, and may be as
// short as people write it.
func pinned(patterns, names []string) bool {
	for _, p := range patterns {
		if !strings.Contains(p, "*") {
			if named, err := ParseReference(p); err == nil {
				p = named.String()
			}
		}
		for _, n := range names {
			if matchWildcard(p, n) {
				return true
			}
		}
	}
	return false
}

// matchWildcard matches s against a pattern whose only special character is *.
func matchWildcard(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}
