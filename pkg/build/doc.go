// Package build makes images of Dockerfiles.
//
// BuildKit's own front end turns a Dockerfile into a graph of operations (LLB);
// this package executes the graph: against the image store, and through an
// Executor for what runs in a container.
package build
