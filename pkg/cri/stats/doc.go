// Package stats reads what containers and pods use, when it is asked, and keeps
// what was read for a moment, so that a burst of callers shares one reading.
//
// A Collector has an entry for each cgroup and each pod network that was asked
// for. An entry is fresh for a quarter of a second; who comes later reads, and
// who comes while it is being read waits and takes the same. Nothing is read that
// nobody asks for. Many entries at once are read by as many goroutines as there
// are processors, which the caller waits for.
//
// CPU usage in cores needs two readings. The rate is the one since the reading
// before, if that is a tenth of a second old; the first reading of what has just
// been started counts from its start.
//
// # Descriptors
//
// The control files of running containers are kept open, up to a number of
// containers, because to open one costs ten times what reading it does. Close ends
// that when a container has ended; so does the kernel's answer that the cgroup is
// gone. Nothing that is kept open holds a cgroup, a mount or a namespace.
//
// It knows nothing of CRI's messages; package cri puts the readings into them.
package stats
