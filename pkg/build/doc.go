// Package build makes images of Dockerfiles.
//
// BuildKit's own front end turns a Dockerfile into a graph of operations (LLB);
// this package executes the graph: against the image store, and through an
// Executor for what runs in a container.
//
//	Request -> frontend (dockerui, dockerfile2llb) -> graph -> solve -> export
//	                                                           │
//	                source: image, local, http, git            │ each vertex once,
//	                exec:   Executor, mounts                   │ inputs at the same
//	                file:   workspace, copy, unpack            │ time
//	                merge, diff: stacks of layers              ▼
//	                                             cache: key -> layers
//
// # What an operation makes
//
// A result is a stack of layers of the image store, or, for a context or a
// download, files in a directory that become a layer when somebody needs one.
// What a step writes into the upper directory of an overlay becomes its layer;
// on scratch there is no overlay, as the kernel would mark new directories as
// hiding what is below them, and layers of COPY --link are stacked on others.
//
// # On disk
//
//	<Root>/cache/<key>.json     a result; its layers are held by the image store
//	<Root>/mounts/<id>-<n>/data cache mounts; used last at the time of <id>-<n>
//	<Root>/tmp/upload-*         what a client has sent
//	<Root>/tmp/build-*          downloads and archives of one build
//	<State>/build-*             mounts, secrets and sockets of one build
//
// All of State and tmp is taken away by Open. A record and its hold are written one after
// the other; whichever is alone after a crash goes.
//
// # Locks
//
// run.mu guards what operations of one build share and is held over the mounting
// of a view. cache.mu guards the records. cacheMounts.mu guards who uses which
// cache mount. None is taken under another. mountSlot.filling is held while a new
// cache mount is filled, which takes run.mu, and Builder.trimming while the cache
// is brought within its limit, which takes cache.mu and cacheMounts.mu.
//
// # What it is not for
//
// It parses no Dockerfile, keeps no layers, runs no process and knows no client:
// those are BuildKit's front end, package image, an Executor and Events.
package build
