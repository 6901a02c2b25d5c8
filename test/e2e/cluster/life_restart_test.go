package cluster

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestRestartPolicies: who is restarted, how often, and what the status says about
// the last time.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	for name, c := range map[string]struct {
		policy corev1.RestartPolicy
		script string
		// once tells when there is no more to wait for.
		once func(p *corev1.Pod) bool
		want func(t *testing.T, p *corev1.Pod)
	}{
		"never": {corev1.RestartPolicyNever, "exit 3", over, func(t *testing.T, p *corev1.Pod) {
			end := suite.Status(p, "c").State.Terminated
			if p.Status.Phase != corev1.PodFailed || end.ExitCode != 3 || end.Reason != "Error" || suite.Status(p, "c").RestartCount != 0 {
				t.Errorf("%s %+v", p.Status.Phase, suite.Status(p, "c"))
			}
		}},
		"on-failure": {corev1.RestartPolicyOnFailure, "[ -e /shared/once ] && exit 0; touch /shared/once; exit 4", over, func(t *testing.T, p *corev1.Pod) {
			status := suite.Status(p, "c")
			if p.Status.Phase != corev1.PodSucceeded || status.RestartCount != 1 || status.State.Terminated.ExitCode != 0 {
				t.Errorf("%s %+v", p.Status.Phase, status)
			}
			if last := status.LastTerminationState.Terminated; last == nil || last.ExitCode != 4 {
				t.Errorf("before that: %+v", status.LastTerminationState)
			}
		}},
		"always": {corev1.RestartPolicyAlways, "exit 0", func(p *corev1.Pod) bool {
			status := suite.Status(p, "c")
			return status.Name != "" && status.RestartCount >= 1 && status.State.Waiting != nil && status.State.Waiting.Reason == "CrashLoopBackOff"
		}, func(t *testing.T, p *corev1.Pod) {
			status := suite.Status(p, "c")
			if last := status.LastTerminationState.Terminated; last == nil || last.ExitCode != 0 || last.Reason != "Completed" {
				t.Errorf("before that: %+v", status.LastTerminationState)
			}
			if !strings.Contains(status.State.Waiting.Message, "back-off") {
				t.Errorf("message %q", status.State.Waiting.Message)
			}
		}},
		"signal": {corev1.RestartPolicyNever, "kill -SEGV $$$$", over, func(t *testing.T, p *corev1.Pod) {
			if end := suite.Status(p, "c").State.Terminated; end.ExitCode != 139 {
				t.Errorf("%+v", end)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := c.script
			if name == "signal" {
				// The first process of a container does not die of its own
				// signals, and of two dollars kubelet makes one.
				script = "sh -c '" + c.script + "'; exit $?"
			}
			p := withShared(pod(name, shell("c", script)))
			p.Spec.RestartPolicy = c.policy
			shared.Create(t, ns, p)
			c.want(t, shared.AwaitPod(t, ns, p.Name, "as far as it gets", c.once))
		})
	}
}

// TestOOMKilled: the status says so, with the exit code of a kill.
func TestOOMKilled(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	hog := shell("hog", "x=a; while :; do x=$x$x$x$x; done")
	hog.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("24Mi")}
	p := pod("oom", hog)
	shared.Create(t, ns, p)
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	if end := suite.Status(done, "hog").State.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("%+v", end)
	}
}

// TestCommandNotFound: the status and the event name the command.
func TestCommandNotFound(t *testing.T) {
	t.Parallel()
	shared.ExpectKubeletError("/no/such/program")
	ns := shared.Namespace(t)
	shared.Create(t, ns, pod("missing", corev1.Container{Name: "c", Image: shared.Images.Busybox, Command: []string{"/no/such/program"}}))
	now := shared.AwaitPod(t, ns, "missing", "refused", func(p *corev1.Pod) bool {
		waiting := suite.Status(p, "c").State.Waiting
		return waiting != nil && waiting.Reason != "ContainerCreating"
	})
	if waiting := suite.Status(now, "c").State.Waiting; waiting.Reason != "CreateContainerError" || !strings.Contains(waiting.Message, "/no/such/program") {
		t.Errorf("%+v", waiting)
	}
	awaitEvent(t, ns, "missing", "Failed", "/no/such/program")
}
