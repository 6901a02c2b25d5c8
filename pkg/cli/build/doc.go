// Package build is `cri-node build`: it sends a Dockerfile and its context to the
// daemon, shows how the build goes as BuildKit shows it, and writes what comes
// back.
package build
