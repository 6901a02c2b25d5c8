// Package cri serves the Kubernetes Container Runtime Interface, v1. It is the
// edge: it checks requests, translates between CRI's messages and the domain
// packages, composes their calls, and puts errors into gRPC codes. It holds no
// mechanism of its own. The packages sandbox, runtime and image do not know of
// one another; they meet here, in plain sight, as a sequence of calls.
//
// # Life of a request
//
//	interceptor.go  logs it, guards against panics, turns its error into a code
//	sandbox_*.go, container_*.go, image.go, …
//	                one file for each group of calls
//	operations.go   joins a repeated call to the one under way
//	spec/           CRI's messages in, an OCI runtime spec out
//
// # What may be repeated
//
// Every call. RunPodSandbox with the metadata of a sandbox that is being made,
// or is ready, joins it or returns it; CreateContainer likewise; the work goes
// on when its caller's deadline is over, and the next call with the same
// metadata gets its result. Stop and Remove of what is not there succeed.
//
// # Pods with an owner
//
// Pods may belong to somebody who is no client of CRI (Extras.Owner, package
// node): people.go and renew.go. They are in no list, statistic or event of a
// client that does not ask for them by an id or by the label io.cri-node.owner,
// and can be brought back after they have ended, which CRI's cannot.
//
// # Errors
//
// The domain packages return errors of the classes of containerd/errdefs;
// errors.go alone turns them into gRPC codes. A missing file is never
// NotFound: that would tell kubelet that a container does not exist.
package cri
