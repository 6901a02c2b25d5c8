// Package checkpoint is the form in which the state of a container lies in a
// tar archive, and the check that what is read back is what was written.
//
//	cri-node.json      Manifest: what is in here, with the digest of each file
//	cri-node.mac       HMAC-SHA256 of cri-node.json, in hexadecimal digits
//	config.dump        for people and checkpointctl; never read back
//	spec.dump          the OCI spec the container ran with
//	checkpoint/NAME    the process images of CRIU
//	rootfs-diff.tar    what the container had changed in its root file system
//
// Whoever can make CRIU restore images of their own making can make any
// process with any rights. So nothing is believed, not even parsed, before the
// MAC over the manifest is right and, file by file, the digests in the
// manifest: an archive is good on the nodes that share the key it was made
// with, and nowhere else. Beyond that a restore takes nothing from an archive
// but process memory and files below the container's root: no mount
// (CVE-2024-8676), no name of an image (CVE-2026-50195), no log
// (CVE-2026-53489), no annotation and no device (CVE-2026-53492).
//
// An archive is also good when it has become the only layer of an image; Unpack
// and UnpackDir read the two forms.
package checkpoint
