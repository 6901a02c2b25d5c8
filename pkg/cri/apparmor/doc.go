// Package apparmor finds out what AppArmor the kernel has and loads the profile
// that confines containers which ask for no other.
//
// # On disk
//
// Nothing stays. The text of the profile is a temporary file while
// apparmor_parser(8) reads it; the kernel keeps the profile until the next
// boot.
//
// # State and locks
//
// A Host has none: each question is put to the kernel.
//
// # What it is not for
//
// It does not know containers: which profile one gets is decided in package
// spec, and the OCI runtime applies it.
package apparmor
