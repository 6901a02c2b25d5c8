// Package linux holds the kernel and file primitives that every other package
// stands on: atomic files, versioned records, mounts, namespaces, processes
// that are told apart by pid and start time, and cgroups of both versions.
//
// It knows nothing of pods, containers or images, imports only the standard
// library and golang.org/x/sys, never logs, and keeps no state. Do not use it
// for paths inside a container's root file system: those belong to the image
// or the container, are hostile, and need resolution confined to that root
// (github.com/cyphar/filepath-securejoin/pathrs-lite).
package linux
