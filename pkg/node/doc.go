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
// # What it is not for
//
// It knows no flags and prints nothing: that is pkg/cli, on the other side of
// the socket.
package node
