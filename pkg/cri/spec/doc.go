// Package spec turns what CRI asks for into what an OCI runtime is told: it
// validates sandbox, container and exec requests, resolves users inside the
// image, and writes the runtime specification of a container and of an exec.
//
// # Direction of data
//
//	ContainerConfig ─┐
//	sandbox facts  ──┤            ┌─ specs.Spec ───── config.json
//	image config   ──┼─ Container ┼─ User, Resources, StopSignal ── status
//	machine facts  ──┤            ├─ Volumes ──────── PrepareVolumes
//	root fs        ──┘            └─ Warnings ─────── one log line each
//
// Everything comes in through Input and leaves through Output; the package
// keeps no state and needs no lock, so any number of calls may run at once.
// Two things on the machine change, both only after the whole request was found
// valid: a missing host_path of a mount is made, as kubelet and users of the
// other runtimes expect, and a missing working directory is made inside the
// root file system.
//
// # Trust
//
// The root file system and the image configuration are hostile. Paths inside
// the root file system are opened through pathrs-lite only, files of accounts
// are read only if regular and at most 10 MiB, and nothing but the fixed set
// of annotations in annotations.go ever reaches the OCI runtime, because
// runtimes act on annotations (CVE-2024-3154, CVE-2023-6476).
//
// # On disk
//
// The package writes no file of its own: the caller stores Output.Spec as
// config.json of the bundle and the *specs.Process of Process as process.json.
//
// # What it is not for
//
// It does not know of bundles, runtimes' command lines, cgroup files, image
// stores or the network, and does not translate errors into gRPC codes: errors
// wrap the sentinels of github.com/containerd/errdefs, and each says first
// which field of the request is wrong. An error whose text starts with a token
// of k8s.io/cri-api/pkg/errors, RROUnsupported, wraps no such sentinel, since
// kubelet reads that token only from errors of code Unknown.
package spec
