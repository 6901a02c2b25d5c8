package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/cluster/lan"
	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
)

// another is a second node of the cluster, on a machine of its own.
type another struct {
	*worker.Worker
	*lan.Machine
}

// join adds a node to the cluster until the end of the test. Others must not run
// beside it: they would find their pods there.
func join(t *testing.T, name string, number int, change func(*worker.Options)) another {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	m, err := lan.Join(ctx, name, number)
	must(t, err)
	t.Cleanup(func() { must(t, m.Leave(ctx)) })
	proxyRegistry(t)
	o := shared.WorkerOptions(name)
	o.IP, o.NetNS, o.Proxy, o.Node.Number = m.IP, m.NetNS, true, number
	if change != nil {
		change(&o)
	}
	w, err := worker.Start(ctx, o)
	must(t, err)
	t.Cleanup(func() {
		_, err := shared.Kubectl.Run(ctx, "delete", "node", name)
		if stop := w.Stop(ctx); err != nil || stop != nil {
			t.Errorf("end of %s: %v, %v", name, err, stop)
		}
	})
	must(t, m.Reach(ctx, w.Node.Subnets, shared.Worker.Node.Subnets))
	// The registry is on the loopback of the first machine only.
	hosts := filepath.Join(w.Node.CertsDir, shared.Registry.Addr())
	must(t, os.MkdirAll(hosts, 0o755))
	must(t, os.WriteFile(filepath.Join(hosts, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\n", "http://"+cage.Host+":5000"), 0o644))
	for _, ref := range []string{shared.Images.Busybox, shared.Images.Agnhost} {
		must(t, w.Node.Pull(ctx, ref))
	}
	return another{w, m}
}

// proxyRegistry answers for the registry on the network, too.
func proxyRegistry(t *testing.T) {
	t.Helper()
	to := &url.URL{Scheme: "http", Host: shared.Registry.Addr()}
	s := &http.Server{Addr: cage.Host + ":5000", Handler: httputil.NewSingleHostReverseProxy(to), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- s.ListenAndServe() }()
	t.Cleanup(func() {
		must(t, s.Close())
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// on has the pod run on the node.
func on(node string, p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return p
}

// TestPodsAcrossNodes: pods of two nodes talk to one another, and through a service.
func TestPodsAcrossNodes(t *testing.T) {
	two := join(t, "node2", 2, nil)
	ns := shared.Namespace(t)
	nodes := []string{shared.Worker.Name(), two.Worker.Name()}
	pods := map[string]*corev1.Pod{}
	for _, node := range nodes {
		p := on(node, server("on-"+node))
		p.Labels = map[string]string{"app": "both"}
		shared.Create(t, ns, p)
		shared.Create(t, ns, on(node, shared.Shell("from-"+node, idle)))
	}
	for _, node := range nodes {
		pods[node] = shared.AwaitReady(t, ns, "on-"+node)
		shared.AwaitReady(t, ns, "from-"+node)
	}
	_, err := shared.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "both"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "both"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: number(8080)}}},
	}, metav1.CreateOptions{})
	must(t, err)
	for _, from := range nodes {
		for _, to := range nodes {
			suite.Await(t, suite.Limit, "from "+from+" to "+to, func(ctx context.Context) (bool, error) {
				out, err := shared.Kubectl.Run(ctx, "exec", "-n", ns, "from-"+from, "--", "probe", "get", "http://"+pods[to].Status.PodIP+":8080/hostname")
				return out == "on-"+to, err
			})
		}
		suite.Await(t, suite.Limit, "from "+from+" to the service", func(ctx context.Context) (bool, error) {
			out, err := shared.Kubectl.Run(ctx, "exec", "-n", ns, "from-"+from, "--", "probe", "get", "http://both/hostname")
			return out == "on-node1" || out == "on-node2", err
		})
	}
}

// TestNodeCutOff: a node that cannot be reached goes on with its pods; those that
// need not wait run elsewhere, and when it is back it lets go of its own.
func TestNodeCutOff(t *testing.T) {
	two := join(t, "node2", 3, nil)
	ns := shared.Namespace(t)
	p, beats := heart(t, "heart")
	before := startPod(t, ns, on("node2", p))
	d := deployment("moves", "one", 1)
	d.Spec.Template.Spec.Affinity = prefer("node2")
	for _, taint := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
		d.Spec.Template.Spec.Tolerations = append(d.Spec.Template.Spec.Tolerations, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: pointer(int64(1)),
		})
	}
	_, err := shared.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	must(t, err)
	runsOn(t, ns, "node2")
	must(t, two.Cut(t.Context()))
	runsOn(t, ns, shared.Worker.Name())
	must(t, two.Mend(t.Context()))
	must(t, two.Await(t.Context(), 2*time.Minute))
	suite.Await(t, suite.Limit, "the pod of before is gone from the node", func(ctx context.Context) (bool, error) {
		pods, err := shared.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=moves"})
		return err == nil && len(pods.Items) == 1, err
	})
	unchanged(t, before, shared.AwaitReady(t, ns, "heart"))
	if longest, _ := longestPause(t, beats); longest > 3*time.Second {
		t.Errorf("the longest pause was %v", longest)
	}
}

// TestNodeDrained: the pods of a drained node run elsewhere.
func TestNodeDrained(t *testing.T) {
	join(t, "node2", 4, nil)
	ns := shared.Namespace(t)
	d := deployment("moves", "one", 2)
	d.Spec.Template.Spec.Affinity = prefer("node2")
	_, err := shared.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	must(t, err)
	runsOn(t, ns, "node2")
	shared.Do(t, "drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=2m")
	runsOn(t, ns, shared.Worker.Name())
	shared.Do(t, "uncordon", "node2")
}

// prefer is the wish to run on a node while that can be had.
func prefer(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
		Weight:     100,
		Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}},
	}}}}
}

// runsOn waits until the deployment "moves" is there with all its pods on the node,
// but for those that are to go.
func runsOn(t *testing.T, ns, node string) {
	t.Helper()
	suite.Await(t, 3*suite.Limit, "the deployment is on "+node, func(ctx context.Context) (bool, error) {
		var d *appsv1.Deployment
		d, err := shared.Client.AppsV1().Deployments(ns).Get(ctx, "moves", metav1.GetOptions{})
		if err != nil || d.Status.AvailableReplicas < *d.Spec.Replicas {
			return false, err
		}
		pods, err := shared.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=moves"})
		if err != nil {
			return false, err
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil && p.Spec.NodeName != node {
				return false, nil
			}
		}
		return true, nil
	})
}
