// Package sandbox makes, remembers and takes down pods: the namespaces that
// the containers of a pod share, the pod's place in the network, and the
// files (resolv.conf, hosts, hostname) and the /dev/shm its containers see.
//
// A pod has no process here. Its namespaces are kept alive by bind mounts.
//
// # On disk
//
// Every path is derived from the sandbox's id, so a teardown needs nothing
// but the id and can run at any time, however often.
//
//	<Root>/sandboxes/<id>/record.json   what should exist; survives a reboot
//	<State>/sandboxes/<id>/             a tmpfs of the size of /dev/shm, and in it
//	        userns netns ipcns utsns    pins: bind mounts of the namespaces
//	        shm/                        the containers' /dev/shm
//	        resolv.conf hosts hostname
//
// A pod that uses a namespace of the host has no pin for it, and with the
// host's IPC namespace no shm either. The directories are 0700: an OCI runtime
// bind-mounts from them as root, and nobody else on the host has business in a
// pod's /dev/shm. A directory being deleted is first renamed to ".trash-<id>".
//
// One tmpfs for everything of a pod means that a single umount takes all its
// mounts away, that what containers write to these files is limited, and that
// the files cost no disk wherever State is.
//
// Records are whole after a crash of any process, but are not fsynced: what
// they describe does not outlive the power either, except for addresses, and
// those the network package keeps account of itself.
//
// # Mount propagation
//
// Pins must exist in one mount namespace only: a copy in another would keep a
// pod's namespaces alive after its removal. The tmpfs is therefore private.
// Where State is on a shared mount (systemd makes "/" shared) the tmpfs itself
// appears, and disappears, in other mount namespaces too; the pins in it do
// not. So the daemon, the monitor and the OCI runtime must share one.
//
// # States
//
//	           Create                MarkReady
//	(nothing) ────────▶ Creating ─────────────────▶ Ready
//	    ▲                  │                        │   ▲
//	    │ error, crash     │ Stop, or a teardown    │   │ Revive
//	    ├──────────────────┤ that did not finish    ▼   │
//	    │                  └─────────────────────▶ NotReady ◀── Stop, namespaces
//	    └─────────────────────────────────────────────┘ Remove  gone, reboot
//
// Creating goes through stages (namespaces, files, network), which an error
// names. Its record precedes all of them, and a crash in any is undone by
// Recover with the same teardown that a failed Create, Stop and Remove use.
// Revive runs the same stages for a sandbox that is NotReady, whose record says
// so until all of them are done: an error or a crash before that leaves it
// NotReady and with nothing. CRI has no call for it; pods with an owner are
// brought back so, with their id. A record that cannot be believed becomes
// a NotReady sandbox with Status.Broken set, so that somebody can see it, stop
// it and remove it.
//
// Config.OnChange is told of each transition that others can see, in order for
// each sandbox (change.go).
//
// # Debts
//
// A network that cannot be released (its plugin is gone, or hangs) must not
// keep a pod for ever. The namespace goes, Status.Debt says what is owed, the
// network package keeps its intent, and SettleDebts tries again.
//
// # Locks
//
// Manager.mu guards the maps and is never held over I/O. Sandbox.op lets one
// operation at a time work on a sandbox and is waited for with a context. The
// order is op, then mu. Status is an immutable snapshot behind an atomic
// pointer: List, Lookup, Get and Status wait for no operation and do no I/O.
//
// # What it is not for
//
// It knows no containers: whoever stops a pod stops its containers first. It
// makes no cgroup, starts no process (a shared PID namespace is the caller's),
// and does not know the CRI: Params.Request carries the caller's own bytes.
package sandbox
