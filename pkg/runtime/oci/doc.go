// Package oci drives one OCI runtime binary, runc or crun, for a container's
// create, start, exec, update and delete. It asks the binary what it can do
// and assumes nothing from its name.
//
// It never asks for a container's state: who runs and who has exited is known
// from the monitor, from pidfds and from cgroups, at no fork. It holds no state
// of containers either: the runtime keeps its own below Config.Root.
package oci
