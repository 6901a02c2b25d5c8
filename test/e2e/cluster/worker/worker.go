package worker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/cluster/plane"
	"github.com/cri-node/cri-node/test/e2e/cluster/process"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// Options say what worker to start.
type Options struct {
	// Name is that of the node in the cluster.
	Name     string
	Programs build.Programs
	// Plane is the control plane; without one there are static pods only.
	Plane *plane.Plane
	// Dir is for the worker's files, LogDir for its logs.
	Dir, LogDir string
	// Cgroup is the parent of the worker's cgroups, as a path in each hierarchy.
	Cgroup string
	// IP is the node's address, which must be there.
	IP string
	// NetNS is the path of the network namespace to run in, "" for this one.
	NetNS string
	// Node are those of cri-node; Binaries must be set.
	Node node.Options
	// Endpoint is the CRI of another runtime, which runs already: the worker then
	// has no Node, and no kube-proxy.
	Endpoint string
	// Kubelet changes kubelet's configuration, and KubeletArgs are added to its
	// arguments.
	Kubelet     func(*kubeletconfig.KubeletConfiguration)
	KubeletArgs []string
	// Proxy runs kube-proxy, too; ProxyArgs are added to its arguments.
	Proxy     bool
	ProxyArgs []string
}

// Worker is a running node.
type Worker struct {
	// Node is cri-node, nil with another runtime.
	Node *node.Node
	// Manifests is the directory of static pods.
	Manifests string

	options Options
	kubelet *process.Process
	proxy   *process.Process
}

// Start starts a worker, or goes on with the one that another program of tests
// kept in the same directory, and waits until it is ready.
func Start(ctx context.Context, o Options) (*Worker, error) {
	w := &Worker{options: o, Manifests: filepath.Join(o.Dir, "manifests")}
	for _, dir := range []string{o.LogDir, w.Manifests, w.path("kubelet"), w.path("podlogs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if o.Endpoint == "" {
		if err := w.startNode(ctx); err != nil {
			return nil, fmt.Errorf("start cri-node: %w", err)
		}
	} else if o.Proxy {
		return nil, errors.New("kube-proxy takes the bridge of cri-node")
	}
	err := cage.MakeCgroup(o.Cgroup)
	if err == nil {
		err = w.StartKubelet(ctx)
	}
	if err == nil && o.Proxy {
		w.proxy, err = startOrAttach(w.proxySpec())
	}
	if err != nil {
		return nil, errors.Join(err, w.Stop(context.WithoutCancel(ctx)))
	}
	return w, nil
}

// startNode starts cri-node. One that was kept gets the program that is in place
// now, if that is another.
func (w *Worker) startNode(ctx context.Context) error {
	o := w.options.Node
	o.CgroupParent = w.options.Cgroup + "/pods"
	var err error
	if w.options.NetNS != "" {
		if o.Binaries.Node, err = w.wrap(o.Binaries.Node); err != nil {
			return err
		}
	}
	link := w.path("runtime")
	if dir, linkErr := os.Readlink(link); linkErr == nil {
		if w.Node, err = node.Attach(ctx, dir); err != nil {
			return err
		}
		return w.renewNode(ctx)
	}
	if w.Node, err = node.Start(ctx, o); err != nil {
		return err
	}
	return os.Symlink(w.Node.Dir, link)
}

// renewNode restarts cri-node where its program has been built anew.
func (w *Worker) renewNode(ctx context.Context) error {
	daemon, err := w.Node.Daemon()
	if err != nil {
		return err
	}
	var sums [2][sha256.Size]byte
	for i, path := range []string{w.options.Node.Binaries.Node, fmt.Sprintf("/proc/%d/exe", daemon.PID)} {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sums[i] = sha256.Sum256(data)
	}
	if sums[0] == sums[1] {
		return nil
	}
	w.Node.UseProgram(w.options.Node.Binaries.Node)
	return errors.Join(w.Node.Stop(20*time.Second), w.Node.Restart(ctx))
}

// wrap makes a program that becomes another in the worker's network namespace.
func (w *Worker) wrap(program string) (string, error) {
	path := w.path("cri-node")
	script := fmt.Sprintf("#!/bin/sh\nexec nsenter --net=%s %s \"$@\"\n", w.options.NetNS, program)
	return path, os.WriteFile(path, []byte(script), 0o755)
}

func startOrAttach(s process.Spec) (*process.Process, error) {
	p, ok, err := process.Attach(s)
	if err == nil && !ok {
		p, err = process.Start(s)
	}
	return p, err
}

// StartKubelet starts kubelet, which must not be running, and waits until the node
// is ready.
func (w *Worker) StartKubelet(ctx context.Context) error {
	if err := w.LaunchKubelet(); err != nil {
		return err
	}
	return w.Await(ctx, 90*time.Second)
}

// LaunchKubelet starts kubelet without waiting for it.
func (w *Worker) LaunchKubelet() (err error) {
	s, err := w.kubeletSpec()
	if err != nil {
		return err
	}
	w.kubelet, err = startOrAttach(s)
	return err
}

// Reconfigure restarts kubelet with another configuration; nil is the usual one.
func (w *Worker) Reconfigure(ctx context.Context, change func(*kubeletconfig.KubeletConfiguration)) error {
	if err := w.StopKubelet(); err != nil {
		return err
	}
	w.options.Kubelet = change
	return w.StartKubelet(ctx)
}

// Bus is the socket of the system bus that kubelet would use; there is none but
// where a test makes it.
func (w *Worker) Bus() string { return w.path("bus") }

// Kubelet is its process.
func (w *Worker) Kubelet() *process.Process { return w.kubelet }

// Proxy is the process of kube-proxy, nil without one.
func (w *Worker) Proxy() *process.Process { return w.proxy }

// Name is that of the node in the cluster.
func (w *Worker) Name() string { return w.options.Name }

// IP is the node's address.
func (w *Worker) IP() string { return w.options.IP }

// Cgroup is the parent of the worker's cgroups, as a path in each hierarchy.
func (w *Worker) Cgroup() string { return w.options.Cgroup }

// KillKubelet ends kubelet with SIGKILL.
func (w *Worker) KillKubelet() error { return w.kubelet.Kill() }

// StopKubelet ends kubelet with SIGTERM.
func (w *Worker) StopKubelet() error { return w.kubelet.Stop(30 * time.Second) }

// Await waits until the node is ready: as its control plane sees it since kubelet
// was started, or else as kubelet says itself.
func (w *Worker) Await(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(limit))
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := w.healthy(ctx)
		if err == nil && w.options.Plane != nil {
			err = w.ready(ctx)
		}
		if err == nil {
			return nil
		}
		select {
		case <-w.kubelet.Exited():
			return fmt.Errorf("kubelet ended: %w\n%s", err, w.kubelet.Spec.LogTail(30))
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w\n%s", w.options.Name, err, w.kubelet.Spec.LogTail(30))
		case <-ticker.C:
		}
	}
}

// healthy asks kubelet, which answers on the loopback of its network namespace;
// that of another namespace cannot be asked from here.
func (w *Worker) healthy(ctx context.Context) error {
	if w.options.NetNS != "" {
		return nil
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10248/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("kubelet answers %s", answer.Status)
	}
	return nil
}

func (w *Worker) ready(ctx context.Context) error {
	n, err := w.options.Plane.Client().CoreV1().Nodes().Get(ctx, w.options.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, taint := range n.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
			return fmt.Errorf("taint %s", taint.Key)
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	return errors.New("no condition Ready")
}

// Stop ends the worker and takes cri-node away with all that it runs.
func (w *Worker) Stop(ctx context.Context) error {
	var errs []error
	if w.proxy != nil {
		errs = append(errs, w.proxy.Kill())
	}
	if w.kubelet != nil {
		errs = append(errs, w.kubelet.Kill())
	}
	if w.Node != nil {
		log, err := os.ReadFile(filepath.Join(w.Node.Dir, "daemon.log"))
		if err == nil {
			err = os.WriteFile(filepath.Join(w.options.LogDir, "cri-node-"+w.options.Name+".log"), log, 0o600)
		}
		errs = append(errs, err, w.Node.Close(ctx), w.Node.Purge(ctx), os.Remove(w.path("runtime")))
	}
	return errors.Join(errs...)
}

func (w *Worker) path(name string) string { return filepath.Join(w.options.Dir, name) }
