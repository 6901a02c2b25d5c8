// Package e2e tests the node from outside: the real daemon, a real OCI runtime,
// real CNI plugins and a real registry on loopback, driven through the client
// kubelet uses.
//
// One node serves most tests, one after another; what kills or reconfigures a
// node starts its own. After every test the leak checker (package invariant)
// compares the kernel with what the CRI says; at the end of each node, with
// every pod removed, nothing may be left.
//
// The tests need root, busybox-static, an OCI runtime and the CNI plugins (`make
// deps`). Without root they are skipped. Other things a machine may lack skip
// single tests; CRI_NODE_REQUIRE, a list such as "root,runc,crun,ipv6" or "all",
// turns those skips into failures.
package e2e
