package cluster

import (
	"context"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/cri-node/cri-node/test/e2e/cluster/logind"
	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// TestGracefulNodeShutdown: told that the machine goes down, kubelet ends pods in
// their order, each with its grace, and lets the machine go when all have ended.
func TestGracefulNodeShutdown(t *testing.T) {
	bus, err := logind.Start(t.Context(), shared.Worker.Bus())
	must(t, err)
	t.Cleanup(func() { must(t, bus.Close()) })
	must(t, shared.Worker.Reconfigure(t.Context(), func(c *kubeletconfig.KubeletConfiguration) {
		c.ShutdownGracePeriod = metav1.Duration{Duration: 40 * time.Second}
		c.ShutdownGracePeriodCriticalPods = metav1.Duration{Duration: 20 * time.Second}
	}))
	// The next kubelet is one that knows nothing of a shutdown.
	t.Cleanup(func() { must(t, shared.Worker.Reconfigure(context.WithoutCancel(t.Context()), nil)) })
	ctx, cancel := context.WithTimeout(t.Context(), pace.Limit(2*time.Minute))
	defer cancel()
	lock, err := bus.Lock(ctx)
	must(t, err)
	if lock.Who != "kubelet" || lock.What != "shutdown" || lock.Mode != "delay" {
		t.Errorf("the lock is %+v", lock)
	}

	ns := shared.Namespace(t)
	dir := t.TempDir()
	say := func(name string) *corev1.Pod {
		p := pod(name, shell("c", "trap 'sleep 1; echo "+name+" >> /shared/story; exit 0' TERM; while :; do sleep 0.1; done"))
		mount(p, "/shared", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}})
		grace := int64(15)
		p.Spec.TerminationGracePeriodSeconds = &grace
		return p
	}
	critical := say("critical")
	critical.Spec.PriorityClassName = "system-node-critical"
	startPod(t, ns, critical)
	startPod(t, ns, say("usual"))

	must(t, bus.Shutdown(true))
	must(t, lock.Released(ctx))
	story, err := os.ReadFile(dir + "/story")
	if err != nil || string(story) != "usual\ncritical\n" {
		t.Errorf("the pods ended like this: %q, %v", story, err)
	}
	for _, name := range []string{"usual", "critical"} {
		ended := shared.AwaitPod(t, ns, name, "ended for the shutdown", func(p *corev1.Pod) bool {
			return over(p) && condition(p, corev1.DisruptionTarget) == corev1.ConditionTrue
		})
		if state := suite.Status(ended, "c").State.Terminated; state == nil {
			t.Errorf("pod %s: %+v", name, suite.Status(ended, "c").State)
		}
	}
	must(t, bus.Shutdown(false))
}
