// Package suite is what the tests of a package share: one cluster in a cage, with
// a control plane, one worker with kube-proxy, CoreDNS, a registry and images.
//
//	func TestMain(m *testing.M) { os.Exit(suite.Main(m, &shared, suite.Options{})) }
//
// The program of tests builds what is needed and then runs once more, in the cage
// (package cage): there Main starts the cluster and runs the tests. At the end it
// takes the pods away, looks for what cri-node and kubelet have left behind and
// for errors in kubelet's log that name the runtime (KubeletErrors), and ends it.
//
// A test works in a namespace of its own (Namespace), which is deleted at its end
// and waited for. It waits with Await and what is built on it, never by sleeping.
//
// For work on the tests the environment variable CRI_NODE_CLUSTER=DIR keeps the
// cluster in the directory between runs; `go run ./down DIR` ends it. A run with
// another build of cri-node restarts the daemon. Clusters in different directories
// run side by side: each has a network namespace of its own, so that kube-proxy and
// the usual ports are nobody else's.
package suite
