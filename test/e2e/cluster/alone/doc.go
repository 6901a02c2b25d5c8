// Package alone holds the tests of cri-node under a kubelet without a control
// plane, which runs static pods: the part of the tests of a cluster that is short
// enough for every change. `make test-kubelet` runs them. Of Kubernetes they build
// kubelet alone.
package alone
