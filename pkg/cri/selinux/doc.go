// Package selinux gives pods their SELinux labels: one level, which is a pair of
// categories, for each pod, so that neither a container's process nor its files
// are another pod's, and the types that the machine's policy has for containers.
//
// # Direction
//
//	           Allocate                    Container
//	(nothing) ──────────▶ labels of a pod ───────────▶ labels of a container
//	    ▲                    │      ▲
//	    └────────────────────┘      └──── Reserve, at a restart of the daemon
//	           Release
//
// # On disk
//
// Nothing: the caller keeps the labels of a pod in its record and hands them to
// Reserve after a restart. The policy's files in /etc/selinux are read.
//
// # Locks
//
// Host.mu guards the labels of the pods, of which several may ask for one level,
// and what the policy says is taken. It is not held over the labelling of files.
//
// # What it is not for
//
// It starts nothing and knows no CRI. Labels are applied by the OCI runtime
// (processes, its own mounts), by the image store (the context of a root file
// system) and by Relabel (volumes).
package selinux
