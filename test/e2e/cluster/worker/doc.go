// Package worker runs one node of a cluster: cri-node (package node), kubelet and,
// where asked for, kube-proxy.
//
//	Start ─► ready ─► KillKubelet, StopKubelet ─► StartKubelet ─► ready ─► Stop
//	           └────► Node.Kill, Node.Restart, ...
//
// The directory of a worker:
//
//	manifests/     static pods
//	kubelet/       kubelet's root directory
//	kubelet.yaml   its configuration
//	podlogs/       logs of containers
//	runtime        link to the directory of cri-node
//
// kubelet's cgroups are below Options.Cgroup. A worker without a control plane runs
// static pods alone. A worker in a network namespace of its own (Options.NetNS) has
// no mount namespace of its own: kubelet's mounts must reach cri-node, and the
// directories differ anyhow. It is the caller who makes the namespace.
package worker
