package suite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/cluster/images"
	"github.com/cri-node/cri-node/test/e2e/cluster/kubectl"
	"github.com/cri-node/cri-node/test/e2e/cluster/plane"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

const (
	// DirVariable names the environment variable with the directory of a cluster
	// to keep between runs.
	DirVariable = "CRI_NODE_CLUSTER"

	preparedVariable = "CRI_NODE_CLUSTER_PREPARED"
	// registryAddress is where the registry is, in each cage.
	registryAddress = "127.0.0.1:5000"
)

// Options say what the shared cluster has.
type Options struct {
	// Worker changes the options of the node.
	Worker func(*worker.Options)
	// Plane changes those of the control plane.
	Plane func(*plane.Options)
	// Bare leaves out kube-proxy and CoreDNS.
	Bare bool
	// Alone leaves out the control plane as well: kubelet runs static pods only,
	// and of the programs it alone is built. Plane, Client and Kubectl are nothing.
	Alone bool
	// Registry is where the registry is, 127.0.0.1:5000 when empty.
	Registry string
	// Prepare builds what else the tests take, before and outside of the cage.
	Prepare func(context.Context) error
}

// Cluster is the shared cluster.
type Cluster struct {
	// Dir is the directory of the cage, Logs that of all logs.
	Dir, Logs string
	Prepared  Prepared
	Plane     *plane.Plane
	Worker    *worker.Worker
	Registry  *registry.Registry
	Images    images.Set
	Kubectl   kubectl.Kubectl
	Client    kubernetes.Interface

	options  Options
	baseline []invariant.Fact
	// logStart is where in kubelet's log this run begins.
	logStart int64
	mu       sync.Mutex
	expected []string
}

// Prepared is what was built outside of the cage, from where modules can be got.
type Prepared struct {
	Programs build.Programs
	Binaries node.Binaries
	// Probe is the compiled test/e2e/program.
	Probe string
	// Started is when the program of tests was.
	Started time.Time
}

// Main is the TestMain of a package: it makes the cluster, runs the tests and
// returns the exit code.
func Main(m *testing.M, c *Cluster, o Options) int {
	cage.Serve()
	log.SetOutput(io.Discard)
	code := 1
	dir, err := cage.Inside()
	switch {
	case err != nil:
	case dir != "":
		code, err = c.inside(m, dir, o)
	default:
		code, err = outside(o)
	}
	if err != nil {
		fmt.Println("FAIL: cluster:", err)
		return 1
	}
	return code
}

// outside builds what is needed and runs this program inside the cage.
func outside(o Options) (code int, err error) {
	if os.Getuid() != 0 {
		return 1, errors.New("it takes root")
	}
	dir := os.Getenv(DirVariable)
	keep := dir != ""
	if !keep {
		if dir, err = os.MkdirTemp("", "cl"); err != nil {
			return 1, err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return 1, err
	}
	ctx := context.Background()
	p, err := prepare(ctx, filepath.Join(dir, "bin"), o)
	if err == nil && o.Prepare != nil {
		err = o.Prepare(ctx)
	}
	if err != nil {
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return 1, err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return 1, err
	}
	if err := os.Setenv(preparedVariable, string(data)); err != nil {
		return 1, err
	}
	code, err = cage.Run(cage.Options{Dir: dir, Keep: keep})
	if code != 0 || err != nil {
		fmt.Printf("logs are in %s\n", dir)
	}
	return code, err
}

func prepare(ctx context.Context, bin string, o Options) (p Prepared, err error) {
	p.Started = time.Now()
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return p, err
	}
	programs := build.All()
	if o.Alone {
		programs = []string{build.Kubelet}
	}
	if p.Programs, err = build.Build(ctx, programs...); err != nil {
		return p, err
	}
	if p.Binaries, err = node.FindBinaries(ctx, bin); err != nil {
		return p, err
	}
	source, err := image.SourceDir()
	if err != nil {
		return p, err
	}
	p.Probe = filepath.Join(bin, "probe")
	return p, image.Compile(ctx, filepath.Join(source, "program"), p.Probe)
}

// inside starts the cluster, runs the tests and, unless it is kept, ends it.
func (c *Cluster) inside(m *testing.M, dir string, o Options) (int, error) {
	ctx := context.Background()
	c.Dir, c.Logs, c.options = dir, filepath.Join(dir, "logs"), o
	if err := json.Unmarshal([]byte(os.Getenv(preparedVariable)), &c.Prepared); err != nil {
		return 1, fmt.Errorf("read what was prepared: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return 1, err
	}
	fmt.Printf("the cluster is up after %v: %s\n", time.Since(c.Prepared.Started).Round(100*time.Millisecond), dir)
	code := m.Run()
	if os.Getenv(DirVariable) != "" {
		return code, c.Registry.Close()
	}
	return code, c.finish(ctx)
}

// start starts what does not run yet.
func (c *Cluster) start(ctx context.Context) (err error) {
	if c.Registry, err = registry.StartAt(cmp.Or(c.options.Registry, registryAddress)); err != nil {
		return err
	}
	pushed := make(chan error, 1)
	go func() {
		var err error
		c.Images, err = images.Push(ctx, c.Registry, c.Prepared.Programs, c.Prepared.Probe)
		pushed <- err
	}()
	if !c.options.Alone {
		err = c.startPlane(ctx)
	}
	if err := errors.Join(err, <-pushed); err != nil {
		return err
	}
	w := c.WorkerOptions("node1")
	w.IP, w.Proxy = cage.Host, !c.options.Bare && !c.options.Alone
	if c.options.Worker != nil {
		c.options.Worker(&w)
	}
	if c.Worker, err = worker.Start(ctx, w); err != nil {
		return err
	}
	if os.Getenv(DirVariable) != "" {
		// Where a kept node goes on with another program, kubelet has noticed.
		if info, err := os.Stat(filepath.Join(c.Logs, "kubelet-"+w.Name+".log")); err == nil {
			c.logStart = info.Size()
		}
	}
	if c.baseline, err = invariant.Collect(c.invariantConfig()); err != nil {
		return err
	}
	for _, ref := range []string{c.Images.Busybox, c.Images.Agnhost, c.Images.CoreDNS} {
		if ref == "" || c.options.Alone && ref != c.Images.Busybox {
			continue
		}
		if err := c.Worker.Node.Pull(ctx, ref); err != nil {
			return fmt.Errorf("pull %s: %w", ref, err)
		}
	}
	if c.options.Bare || c.options.Alone {
		return nil
	}
	return c.startDNS(ctx)
}

func (c *Cluster) startPlane(ctx context.Context) (err error) {
	p := plane.Options{Programs: c.Prepared.Programs, Dir: filepath.Join(c.Dir, "plane"), LogDir: c.Logs, Host: cage.Host}
	if c.options.Plane != nil {
		c.options.Plane(&p)
	}
	if c.Plane, err = plane.Start(ctx, p); err != nil {
		return err
	}
	c.Client = c.Plane.Client()
	c.Kubectl = kubectl.Kubectl{
		Path: c.Prepared.Programs.Path(build.Kubectl), Kubeconfig: c.Plane.Kubeconfig(plane.Admin), Cache: filepath.Join(c.Dir, "tmp", "kubectl"),
	}
	return nil
}

// WorkerOptions are those of another node of the cluster: an IP has to be set.
func (c *Cluster) WorkerOptions(name string) worker.Options {
	return worker.Options{
		Name: name, Programs: c.Prepared.Programs, Plane: c.Plane,
		Dir: filepath.Join(c.Dir, name), LogDir: c.Logs, Cgroup: cage.Cgroup(c.Dir) + "/" + name,
		Node: node.Options{Binaries: c.Prepared.Binaries, Kept: true},
	}
}
