// Package infra is the init of a pod whose containers share one pid namespace:
// process 1 there, which does nothing but reap what is orphaned to it.
//
// It is a complete ELF executable of about 200 bytes that this package carries
// as machine code, so that there is no image to pull, nothing for a garbage
// collector to take away, and next to no memory in use: it maps one page and
// never touches another.
//
// Beside it is the init of a container that asks for one (ContainerInit), which
// runs the container's command: containerinit/init.c.
package infra
