// Package hooks adds the hooks that the operator of a machine has installed in
// directories to OCI specs. The files are those of oci-hooks(5), version 1.0.0,
// one hook each, as podman and CRI-O read them.
//
// # Which hooks apply
//
// Files end in .json. Of two with one name in several directories the one in
// the later directory counts. They are taken in the order of their names. A
// hook applies where every condition of its "when" holds; the patterns of
// annotations and commands are regular expressions of package regexp, which
// take linear time. Annotations are matched, but not passed on: see package
// spec of the CRI service for why OCI runtimes see none of a pod's.
//
// # Trust
//
// A hook runs as root on the host, so that whoever may write these files is
// root. A file that others than its owner can write is refused. A file that
// cannot be used makes every Apply fail until it is put right or removed: a
// hook may be what confines a container, and must not be skipped in silence.
//
// # State and locks
//
//	file: unseen --Apply--> parsed or refused --changed on disk--> unseen
//
// Dirs keeps what it has parsed, together with each file's inode, size and
// times, and reads again what differs at the next Apply. One mutex is held for
// the length of that look. Nothing runs in the background.
//
// # What it is not for
//
// It does not run hooks: OCI runtimes do. It does not know of CRI.
package hooks
