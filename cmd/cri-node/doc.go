// Command cri-node makes a Linux machine a Kubernetes node runtime.
//
//	cri-node [serve]                    the daemon
//	cri-node config default|check|dump  its configuration
//	cri-node version
//	cri-node monitor                    hidden: the node's monitor, started by the daemon
//
// The last two are run by package early, before anything else is initialised.
//
// This package is wiring only: it reads flags, files and signals, builds the
// layers bottom up, and is the only one that ends the process.
package main
