// Package image holds the container images of a node: it pulls them from
// registries, pushes them there, reads and writes archives of them, keeps them
// on disk, answers for them from memory, and mounts them as root file systems of
// containers.
//
// An image is its config: the config's digest is the ID everywhere. A layer is
// what it unpacks to: its diff ID names it. Layers are unpacked each on its
// own, whiteouts and all, so that one directory serves under any parents; no
// chain IDs are needed and more is shared.
//
// # On disk
//
//	lock                            held by the one process that uses the store
//	blobs/sha256/<hex>              indexes, manifests and configs, as in an OCI layout
//	images/<hex>.json               one record for each image: names, blobs, layers
//	layers/<hex>/diff/              what the layer with this diff ID unpacks to
//	layers/<hex>/usage.json         its size, and what its tar did not list; written with it
//	layers/<hex>/recipe.zst         what else makes its tar again, to the byte
//	layers/<hex>/tar.zst            the tar itself, where a recipe does not do
//	rootfs/<id>/rootfs.json         which layers a container stands on
//	rootfs/<id>/volumes.json        which images it has mounted beside its root
//	rootfs/<id>/files-<n>/          an artifact's blobs under their names, as hard links
//	rootfs/<id>/{upper,work}/       its writable layer
//	staging/                        layers being unpacked
//	partial/                        compressed bytes of layers not yet committed
//	trash/                          what is being deleted
//	holds/<id>.json                 layers that a build wants to find again
//	broken/                         image records that could not be believed
//	empty/{0,1}/                    stand in for layers where overlayfs wants more
//
// # A pull
//
// Each layer makes one pass: socket, sha256, decompression, sha256, files. The
// compressed bytes also go to a file in partial, without a sync, from which a
// pull goes on after a crash or a shutdown; it is gone once all layers of the
// image are staged, or when the last client cancels.
//
//	layer:  absent --verified--> staged --committed--> committed --last reference--> trash
//	image:  all layers staged -> unlisted directories inherit -> blobs written
//	        -> one syncfs -> layers renamed -> record written and synced (the
//	        commit point) -> visible
//
// # Layers as tars and blobs
//
// A layer is kept as files, and its compressed blob is not kept, which would cost
// half as much disk again. Two things need the bytes back all the same: save and
// the diff ID need the tar, push needs the blob.
//
// The tar comes back to the byte, always verified against the diff ID: while it
// is unpacked, all of it but the data of files goes to a recipe (package layer,
// Assemble), compressed to well below a hundredth of the layer. This costs no
// second pass, and holds for layers that were pulled as for those made here;
// tar-split does the same in a pass of its own. There are three exceptions. A tar
// that lists a file twice has lost the first one's data: of a layer from a file
// the whole tar is kept, of one from a stream what was unpacked is packed anew,
// and one from a registry is fetched again where it is needed. A layer that was
// taken out of a writable one (TakeUpper) is packed again, which is how it got
// its diff ID. And layers of a store from before recipes are fetched again.
//
// The blob of a layer that was pulled cannot come back: no compressor gives the
// bytes of another. So a push looks, in this order: whether the repository has
// it; whether another repository of that registry has (a mount); in the store
// (Config.KeepCompressed); and where it came from, which the record of the image
// remembers. If nobody has it, the push fails and says how to keep layers, unless
// it may give the image another digest. A layer that was made here is compressed
// by each push, always to the same bytes; the manifest is made by the first push
// and kept, so that the image has one digest everywhere. Should another version
// compress in another way, the blob comes from where it was pushed to.
//
// # Unlisted directories
//
// A layer may have tmp/x and no entry for tmp. Its own tmp, 0755 of root, then
// hides the mode of the one below, so it gets mode, owner, time and attributes
// of the highest lower layer of the image that lists tmp, unless something in
// between hides that one (package layer, Inherit). This is the only thing in a
// layer that depends on what is below it. As layers are shared by diff ID, it
// happens once, before the layer becomes visible: the first image wins, and in
// another image with the same layer over other parents such a directory looks
// as in the first. Images that share a layer mostly share what is below it too.
// The root of the whole is not concerned: it is that of the writable layer,
// which each rootfs gets anew, with the metadata of the highest layer that lists
// its root.
//
// # Artifacts
//
// A manifest whose config is not that of an image is an OCI artifact: files to
// mount, not to run. Its ID is the digest of the manifest. Each blob is a layer
// with one file, whose name no diff ID can have, so that no artifact can bring
// an image its layers. Titles become names; all else in a manifest is ignored.
//
// # References
//
// An image, a rootfs and a pull in progress hold the layers and blobs they
// need. The counts are in memory only and made anew by Open from the records;
// content without a reference goes at once when the last one does, and at
// Open when a crash left it behind. An image whose content is not whole is
// not entered, so that the next pull heals it.
//
// # Locks
//
// Store.holding guards holds and is held over the writing of their records.
// Store.commits serialises commits and is held over their syncfs. Store.names,
// taken after it, is held by whoever changes which images there are or what
// they are called, over the sync of their records. Store.mu, taken last,
// guards all maps and is held over neither network nor syncs, so that a
// container never waits for a pull. Readers of images take no lock: they look
// at an immutable view that each change replaces. Pulls and layers are shared
// through flights, which have a lock of their own and call nobody under it.
// Store.emptying is held over the deletion of what is in the trash, and nothing is
// taken under it.
//
// # What it is not for
//
// It does not build images, and converts none: what it pushes is what it pulled
// or what was made here. It does not decide which images to remove: the kubelet
// and people do.
package image
