// Package signature decides whether an image may be used, by who signed it.
//
// A Policy is a list of rules, each for the images under a prefix of their
// names and, if it says so, for the pods of one namespace. The rule that
// matches an image is found like this:
//
//	rules of the pod's namespace  --longest matching prefix--.
//	     '-- none matches --> rules of no namespace ---------+--> rule
//	                               '-- none matches --> accepted
//
// A rule accepts, refuses, or asks for one valid signature over the digest
// that the image's name stands for:
//
//   - sigstore: a bundle that refers to the image (OCI referrers, or the index
//     under the tag sha256-DIGEST where a registry has no such API), or a
//     signature as cosign 2 keeps it under the tag sha256-DIGEST.sig; signed
//     with one of the rule's keys, or with a certificate of one of its
//     identities that its trusted root vouches for.
//   - notation: a signature envelope that refers to the image, made with a
//     certificate below one of the rule's.
//
// Everything that decides is in files on this machine: nothing is asked of a
// transparency log, a certificate authority or a revocation service. What
// comes from the registry is bounded in number and size and believed only
// after it has been verified.
//
// A Policy is immutable and may be used by any number of goroutines.
//
// It is not for attestations: a statement about how an image was built is not
// its release, even when the same key signed it.
package signature
