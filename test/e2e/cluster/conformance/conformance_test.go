package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/plane"
	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/specs"
)

var (
	focus    = flag.String("focus", "", "regular `expression` of the specs to run")
	parallel = flag.Int("parallel-specs", 6, "specs at a time, of those that may run beside others")
	update   = flag.Bool("update", false, "write the lists of docs/conformance anew")
)

// shared is the cluster of both tests.
var shared suite.Cluster

// runVariable names the environment variable without which no suite is run: each
// takes an hour.
const runVariable = "CRI_NODE_CONFORMANCE"

func TestMain(m *testing.M) {
	if os.Getenv(runVariable) == "" {
		os.Exit(m.Run())
	}
	os.Exit(suite.Main(m, &shared, suite.Options{
		// Specs put a registry of their own onto port 5000.
		Registry: "127.0.0.1:5055",
		Prepare:  prepare,
		Worker: func(o *worker.Options) {
			// Specs of runtime classes name this handler.
			o.Node.Config = fmt.Sprintf("[runtime.handlers.test-handler]\npath = %q\n", o.Node.Binaries.Handlers["runc"])
		},
	}))
}

// prepare builds outside of the cage what takes a network.
func prepare(ctx context.Context) error {
	if _, err := build.Build(ctx, build.Suites()...); err != nil {
		return err
	}
	return MakeDebian(ctx, debianTar())
}

func repository() string {
	source, err := image.SourceDir()
	if err != nil {
		panic(err) // the test is not run from a checkout
	}
	return filepath.Dir(filepath.Dir(source))
}

func cacheDir() string { return filepath.Join(repository(), "bin", "conformance") }

func debianTar() string { return filepath.Join(cacheDir(), "debian.tar") }

// TestCluster runs test/e2e against the shared cluster.
func TestCluster(t *testing.T) {
	pushImages(t)
	c := &shared
	run(t, Suite{Name: "cluster", Program: build.E2E, Args: []string{
		"--kubeconfig=" + c.Plane.Kubeconfig(plane.Admin), "--provider=skeleton",
		"--kubectl-path=" + c.Prepared.Programs.Path(build.Kubectl),
		"--kubelet-root-dir=" + filepath.Join(c.Dir, c.Worker.Name(), "kubelet"),
		"--container-runtime-endpoint=" + c.Worker.Node.Endpoint(),
		"--e2e-output-dir=" + t.TempDir(),
	}})
}

// run runs a suite, of which it is told what is its own, writes the summary and
// holds it against the list.
func run(t *testing.T, s Suite) {
	t.Helper()
	s.Ginkgo, s.Program = shared.Prepared.Programs.Path(build.Ginkgo), shared.Prepared.Programs.Path(s.Program)
	s.Out, s.Work, s.Focus, s.NotRun, s.Parallel = cacheDir(), t.TempDir(), *focus, NotRun, *parallel
	t.Logf("running %s; what it says is in %s", s.Program, filepath.Join(s.Out, s.Name+".log"))
	all, err := s.Run(t.Context())
	if err != nil {
		t.Error(err)
	}
	sum := specs.Summarize(all)
	if err := os.WriteFile(filepath.Join(s.Out, s.Name+".md"), []byte(sum.Markdown()), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d passed, %d failed, %d skipped by themselves", sum.Total.Passed, sum.Total.Failed, sum.Total.Skipped)
	for _, f := range sum.Failed {
		t.Errorf("%s failed: %s", FullName(f), specs.Reason(f))
	}
	list, err := ReadList(filepath.Join(repository(), "docs", "conformance", s.Name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	matching := regexp.MustCompile(*focus)
	for _, lost := range list.Lost(all, matching) {
		t.Errorf("%s is said to pass, but did not", lost)
	}
	if *update {
		if err := list.Update(all, matching); err != nil {
			t.Error(err)
		}
	}
}

// TestNode runs test/e2e_node, which starts an API server and a kubelet: those of
// the cluster stand back.
func TestNode(t *testing.T) {
	pushImages(t)
	c := &shared
	must(t, c.Worker.StopKubelet())
	must(t, c.Plane.Process(build.APIServer).Kill())
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		must(t, c.Plane.Restart(ctx, build.APIServer))
		must(t, c.Worker.StartKubelet(ctx))
	})
	dropCgroups(t)
	var path string
	if !node.Systemd() {
		path = t.TempDir()
		must(t, StandInForSystemd(path))
	}
	config := filepath.Join(t.TempDir(), "kubelet.yaml")
	must(t, os.WriteFile(config, []byte(fmt.Sprintf(kubeletConfig, c.Worker.Cgroup())), 0o644))
	run(t, Suite{Name: "node", Program: build.E2ENode, Path: path, GinkgoArgs: []string{"--focus-file=test/e2e_node/"}, Args: []string{
		"--kubelet-config-file=" + config, "--node-name=" + c.Worker.Name(),
		"--container-runtime-endpoint=" + c.Worker.Node.Endpoint(), "--image-service-endpoint=" + c.Worker.Node.Endpoint(),
		"--prepull-images=false", "--report-dir=" + t.TempDir(),
		// kubelet without an address asks for that of its name, and nobody answers in
		// the cage: it would be registered too late for what waits for that.
		"--kubelet-flags=--node-ip=" + c.Worker.IP(),
	}})
}

// dropCgroups removes at the end the cgroups that the suite has its kubelet make at
// the root of the tree, which is the machine's.
func dropCgroups(t *testing.T) {
	t.Helper()
	roots, err := invariant.CgroupMounts()
	must(t, err)
	t.Cleanup(func() {
		for _, root := range roots {
			for _, name := range []string{"kubelet", "kubelet.slice", "system"} {
				// Somebody else's has processes, and stays.
				if err := unix.Rmdir(filepath.Join(root, name)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
					t.Errorf("remove cgroup %s in %s: %v", name, root, err)
				}
			}
		}
	})
}

// kubeletConfig is the configuration that the suite has for itself, but for what a
// machine for tests may lack.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
cgroupRoot: %s
podCIDR: 10.100.0.0/24
volumeStatsAggPeriod: 10s
fileCheckFrequency: 10s
evictionPressureTransitionPeriod: 30s
evictionHard: {memory.available: 250Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%}
evictionMinimumReclaim: {nodefs.available: 1%%, nodefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
serializeImagePulls: false
`

// pushImages fills the registry and sends the node there.
func pushImages(t *testing.T) {
	t.Helper()
	if os.Getenv(runVariable) == "" {
		t.Skipf("%s is not set: make test-conformance", runVariable)
	}
	images, err := MakeImages(shared.Prepared.Programs, debianTar())
	must(t, err)
	for repo, img := range images {
		_, err := shared.Registry.Push(t.Context(), repo, img)
		must(t, err)
	}
	dir := filepath.Join(shared.Worker.Node.CertsDir, "registry.k8s.io")
	must(t, os.MkdirAll(dir, 0o755))
	hosts := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+shared.Registry.Addr())
	must(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
