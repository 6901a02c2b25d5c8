// Package monitor is the one process of a node that containers depend on, and
// the daemon's connection to it.
//
// The monitor (Main) runs the OCI runtime's create, is the parent of every
// container's init, copies their output into CRI logs and writes down how they
// end. It knows nothing of CRI, images or pods. The daemon (Supervisor) keeps
// it alive and may itself die at any moment. Either can be killed without a
// container, a line of output or an exit code being lost:
//
//	container --FIFO--> spool file --format--> CRI log
//	    |                   '---- journal ----'
//	    '--exits--> zombie --> journal --> log complete --> exit.json --> event
//
// A FIFO is open for reading and writing on the container's side, so without a
// monitor the container waits for room and gets no SIGPIPE. splice(2) moves
// bytes from the FIFO to the spool, whose size then says exactly what was
// taken. The journal, a mapped page, says what of the spool is in the log and
// which batch is being written; after a kill the next monitor makes the same
// bytes of the same batch and writes those that are not there yet. An exit is
// seen on the zombie, noted in the journal, and only then reaped.
//
// What a monitor's death would take along the Supervisor holds too: a pidfd
// (which tells the exit status after anybody's reaping, from Linux 6.15),
// readers of the pipes, the terminal's master. When both are dead, and a
// container exits before either is back, what was in its pipe (64 KiB at most)
// is lost, and its exit status if PID 1 has reaped it: Exit.Lost.
//
// Clients attach to a container's streams on connections of their own. The
// pump shows them what it has taken into the spool, from memory that is
// bounded, and a client that does not read is dropped; see hub. They end with
// the monitor, also when it is upgraded.
//
// # On disk
//
// In the monitor's directory: monitor.sock, lock (flock), monitor.log,
// containers/ID.json (the index, one record each), handover.json (during an
// upgrade). In a container's directory while it lives: stdin.fifo,
// stdout.fifo, stderr.fifo, stdout.spoolN, stderr.spoolN, journal; afterwards
// exit.json. Nothing is synced: a boot ends all of it.
//
// # States of a container
//
//	CREATING --runtime done--> LIVE --init exits--> DRAINING --> EXITED --Forget--> gone
//	    '--runtime failed--> gone
//
// # Locks and goroutines
//
// server.mu guards the maps and is never held across I/O; container.mu guards
// one container's descriptors; hub.mu guards what attached clients have to get
// and is held for copies in memory alone; reaper.mu is held from fork to registration, so
// that no exit is too fast. A container's output belongs to its pump, which
// has a goroutine only while bytes flow: a log on a disk that hangs stops that
// container alone. At rest there is no timer and no goroutine per container.
//
// Do not use it to run anything but the OCI runtime's create, and not for what
// needs to know what a container is for.
package monitor
