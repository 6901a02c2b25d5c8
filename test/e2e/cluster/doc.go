// Package cluster holds the tests of cri-node in a Kubernetes cluster: a control
// plane, kubelet and kube-proxy of one release, with cri-node as the runtime and
// nothing of it replaced. `make test-cluster` runs them; package suite tells how to
// work on one of them, and test/e2e/kubelet is what kubelet does without a cluster.
//
// A file is one subject, and the names of the tests say the behaviour.
package cluster
