// Package conformance runs the specs of Kubernetes' own suites that one node can
// pass, with cri-node as the runtime: test/e2e against a cluster (TestCluster), and
// test/e2e_node, which brings an API server and a kubelet of its own (TestNode).
// `make test-conformance` runs both.
//
// The suites are Go packages of the module programs and are compiled as they are.
// What their images hold is compiled, too, or Debian's (MakeImages); every image
// comes from the registry in the cage.
//
// Of the specs those are selected that are labelled Conformance or NodeConformance,
// but for those in NotRun, each with its reason. docs/conformance holds the names of
// those that have passed, a file for each suite: one of them that does not pass any
// more fails the test, as does every spec that fails. -update writes the files anew.
//
// A run leaves in bin/conformance of the repository, for each suite:
//
//	SUITE.log   what it said
//	SUITE.json  ginkgo's report
//	SUITE.md    the summary for docs/conformance.md
//
// Nothing here tests a rule of the project's own: test/e2e/cluster does.
package conformance
