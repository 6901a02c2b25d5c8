// Package runtime owns containers: their records, root file systems, OCI
// bundles, processes, logs and exits. It drives an OCI runtime (package oci)
// and the node's monitor (package monitor), which is the parent of every
// container's init and outlives this process.
//
// # States
//
//	          Prepare          Create            Start
//	(nothing) ───────► Creating ─────► Created ─────────► Running (paused or not)
//	                      │            │     ▲               │
//	                      │ fails      │     │ Renew         │ exits
//	                      ▼            ▼     │               ▼
//	                  (nothing) ◄─────────────────────── Exited
//	                                 Remove
//
// A container that is Creating is in no list: it either becomes Created or it
// goes without a trace, at the latest when the daemon starts again. States only
// move forward, but for Renew (renew.go), which makes of a container that has
// exited one that waits to be started, with the files it has. Pause (pause.go)
// freezes the cgroup of one that runs.
//
// # On disk
//
//	<root>/containers/<id>/record.json   what should exist (linux.SaveRecord)
//	<root>/containers/<id>/volumes/      contents of the volumes its image declares
//	<state>/containers/<id>/config.json  OCI bundle
//	<state>/containers/<id>/rootfs       mount point of its root file system
//	<state>/containers/<id>/exec/<n>/    one process run by Exec
//	<state>/containers/<id>/…            FIFOs, journal and exit.json of the monitor
//
// Exec and Attach connect a client, as Streams, to a process of its own or to
// the container's init, which need not have been started for that. They hold no
// lock and end with the process, the client
// or the daemon, but for a Detached exec, which ends with its process; nothing of them is on disk but the directory of an exec.
//
// Every path, the cgroup and the runtime's own state are derived from the id
// and the record, so that teardown needs nothing remembered. There is one
// teardown: a create that fails, Remove and recovery all call it.
//
// # Changes
//
// Config.OnChange is told of each transition that others can see, in order for
// each container (change.go): events and plugins are made from that.
//
// # Locks
//
// Container.op serialises the operations that change a container; it is taken
// with a context and never by Stop, which must get through while one hangs.
// Container.mu guards the record for the moment of a change. Manager.mu guards
// the map and is never held over I/O. Order: op, Manager.mu, mu. Status and
// List take none of them over I/O: they read an immutable snapshot.
package runtime
