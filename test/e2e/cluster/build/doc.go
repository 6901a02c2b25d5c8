// Package build makes the programs of a cluster out of the module programs, which
// pins their versions: static, with the version in them as releases have it.
//
// They are kept in bin/kubernetes of the repository, or in the folder that
// DirVariable names, each with a file that tells what it was made from:
//
//	kubelet  .kubelet.stamp  kubectl  .kubectl.stamp  ...  .lock
//
// A stamp is the hash of programs/go.mod, the version of Go and the flags; with
// the same one nothing is run. The lock keeps a second build at the same time
// waiting. Peer does the same for containerd, out of the module peer into bin/peer.
// The package does not build cri-node: package node finds that.
package build
