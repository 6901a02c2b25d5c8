// Package layer unpacks one image layer, a tar stream written by a stranger,
// into one directory, as root, on the host. It is the place where an image
// author's bytes become files of the node, so everything in it is arranged
// around one promise: whatever the bytes, nothing outside the directory is
// created, changed, removed or read.
//
// # Form on disk
//
// The directory becomes one lower layer for overlayfs (the kernel's
// Documentation/filesystems/overlayfs.rst), as plain files:
//
//	in the tar             on disk
//	file, dir, symlink,    the same, with numeric owner, mode, modification time
//	device, fifo
//	hard link              a link to what an earlier entry made
//	.wh.NAME               NAME as a character device 0:0, which hides NAME below
//	.wh..wh..opq           trusted.overlay.opaque=y on the directory it lies in
//	.wh..wh.*              nothing: bookkeeping of the aufs driver
//
// An opaque marker in the layer's root sets the attribute on the directory
// itself. Overlayfs merges the roots of all layers regardless of it: who
// stacks the layers has to leave out those below ([Result].OpaqueRoot).
//
// A directory that the tar does not list but has files in becomes 0755, root.
// This holds for the layer's root too; until the last entry is written it
// keeps the mode it was given. Such a directory would hide the mode of the one
// below it, 1777 of /tmp for instance, so Apply reports it, and [Inherit] gives
// it the metadata that it has in the layers below.
//
// # Confinement
//
//	entry name ── clean ──> parent path + last component
//	                            │
//	        openat2 BENEATH|NO_SYMLINKS ──> directory fd ──> *at(fd, component, NOFOLLOW)
//	                            │ a symlink in the way                    ▲
//	                            └── step by step, each link read and      │
//	                                resolved as if the layer were "/" ────┘
//
// No path is ever given to the kernel from "/", and the kernel follows no
// symlink for us. The ones in a parent path are those this layer made; as in a
// container, an absolute target starts at the layer's root and ".." stops
// there. The last component is never followed: a file, link or device
// *replaces* what has its name. Directory fds are kept in a small cache, which
// is dropped whenever a directory or symlink is replaced, as only that can
// change where a path leads.
//
// What a layer must not be able to do to overlayfs or to the host's security
// modules it cannot: only user.* (without user.overlay.*) and
// security.capability attributes are taken, everything else (trusted.*,
// security.selinux, security.ima, system.posix_acl_*, ...) is dropped
// silently; a character device 0:0 in the tar, which would be a whiteout
// nobody declared, is refused. Other devices are created: a container has no
// right to open them unless it is given one.
//
// Confinement does not depend on names staying put, but the result does: the
// directory must be empty and nobody else may write to it meanwhile, so give
// it a private (0700) parent.
//
// # Order
//
// Where the specification leaves it open, entries behave as in containerd: the
// later of two with one name wins; a directory over a directory keeps its
// contents and takes the new metadata. A whiteout concerns the layers below
// only, wherever in the tar it stands: a file of the same layer stays, a
// directory of the same layer becomes opaque. Ownership is set before
// attributes and mode, since chown(2) clears capabilities and setuid bits, and
// a directory's time after everything that is put into it.
//
// # Limits
//
// A few bytes of tar, and fewer still compressed, can ask for a great deal.
// [Options] bounds what they get: data, entries (directories made for parents
// count), name length and depth, bytes spent on one header, bytes after the
// end.
//
// # Errors
//
// What is the layer's fault names the entry, quoted, and is
// errdefs.ErrInvalidArgument. What is not (a full disk, a stream that broke
// off, a cancelled context) keeps its own error. After an error the directory
// holds a part of the layer: remove it.
//
// # Not for
//
// Package layer does not decompress, does not verify digests and syncs nothing
// to disk: the caller hashes the stream as it goes by, and makes the layer
// durable (syncfs, rename) before anything refers to it. It does not apply a
// layer on top of another one, and it is no general tar extractor. It needs
// Linux 5.6 (openat2) and CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE, CAP_MKNOD,
// CAP_SETFCAP and CAP_SYS_ADMIN (for trusted.*) in the first user namespace.
//
// There is no state and there are no locks: calls on different directories are
// independent of one another.
package layer
