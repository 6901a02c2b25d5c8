// Package node serves the API for people (package nodev1): what a person at the
// terminal does with containers, images, volumes and builds that kubelet has no
// call for. It sits on top of pkg/cri, whose server makes the pods and
// containers; what it adds is mechanism that outlives a command: names, restart
// policies, removal after exit, health checks, volumes, names among containers.
//
// # Whose pod it is
//
// Pods made here have an owner (sandbox.Params.Owner). kubelet ends every pod
// that it does not know, so the lists, statistics and events of CRI leave such
// pods out, unless a client asks for one by its id or by the label OwnerLabel:
// `crictl pods --label io.cri-node.owner=people`. The owner is in the record of
// the sandbox and not in its labels, which anybody may set.
//
// # A container of people's
//
//	           Create           Start                      exit
//	(nothing) ────────► created ──────► running ◄───────┐
//	    ▲                  │             │   ▲          │ after a wait
//	    │                  │             │   │ Start    │
//	    │                  ▼             ▼   │          │
//	    └────────────── exited ◄───── (tend) ┴────► restarting
//	      Remove, --rm      nothing more to do
//
// A removal that fails half-way is tried again until nothing is left: the pod,
// log and volumes of a container that is gone, nobody could name any more.
//
// It keeps its id, files and log over stops and starts; its pod is given back its
// network with each of them, and has none while nothing runs in it. Of a
// container that has exited, tend.go decides by the record what comes: a restart
// after a wait, removal, or rest. It looks at what is the case and not at what it
// was told, so that it does the same whether the container exited now or while
// no daemon ran.
//
// # On disk
//
//	<root>/node/containers/<id>.json  what CRI has no field for (linux.SaveRecord)
//	<root>/node/logs/<id>.log         its log, in CRI's form
//	<root>/node/logs/<id>.log.<time>  what was rotated out of it (rotation.go)
//	<root>/node/volumes/              see package volumes
//	<root>/node/networks/<name>.json  one that somebody has made (linux.SaveRecord)
//	<state>/node/health/<id>.json     what its last probes were
//
// The record is written before anything of the container is made, and says
// Creating until all is; it goes last, and says Removing before. At the start of
// the daemon what is half made or half removed goes, as does a record whose
// container is gone, and a container of Owner's without a record: one of a build.
//
// # Locks
//
// entry.op serialises the operations that change a container, and is taken with
// a context; Kill sends its signal without it, because Stop may wait under it.
// entry.mu guards the record and what is known of the present run. table.mu
// guards the maps. hostsFiles.mu makes one writing of hosts files follow another.
// Order: op, hostsFiles.mu, table.mu, mu. None but op and hostsFiles.mu is held
// over I/O, but for the write of a record, which mu (and a rename, table.mu) is.
//
// Background work belongs to the Server: Close ends it, and waits for it. EndCalls
// ends the calls that last as long as their client likes.
//
// # Packages below
//
//	names     random names, and which are allowed
//	restart   whether and when a container is started again
//	health    probing, and what is concluded from it
//	logs      reading logs from either end, and as they grow
//	volumes   named directories
//	journal   the last events, and new ones
//
// # What it is not for
//
// It knows no flags and prints nothing: that is pkg/cli, on the other side of
// the socket.
package node
