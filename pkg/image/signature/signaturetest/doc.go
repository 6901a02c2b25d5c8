// Package signaturetest signs images for tests: what a policy of package signature
// accepts has to come from somewhere else than that package.
//
// It knows no registry; a test puts what it gets where its registry wants it. It is
// not for programs: a Key is thrown away with its test.
package signaturetest
