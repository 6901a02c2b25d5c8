// Package image builds container images for the tests and the demonstration,
// out of the machine's static busybox and of programs compiled on the spot, in
// every form a registry may serve: gzip, zstd and plain layers, Docker and OCI
// media types, indexes, whiteouts, extended attributes.
//
// An image is a list of layers, a layer a list of files; nothing touches the
// disk but the compiler. The package does not serve images: package registry does.
package image
