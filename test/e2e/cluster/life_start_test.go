package cluster

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestPodQOSClasses: each class has its place in the tree of cgroups and its
// inclination to be killed when memory is short.
func TestPodQOSClasses(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	for _, c := range []struct {
		class     corev1.PodQOSClass
		resources corev1.ResourceRequirements
		parent    string
		adj       string // expression of busybox' expr over the value
	}{
		{corev1.PodQOSGuaranteed, corev1.ResourceRequirements{Limits: list("50m", "32Mi"), Requests: list("50m", "32Mi")}, "kubepods/pod", ""},
		{corev1.PodQOSBurstable, corev1.ResourceRequirements{Requests: list("10m", "16Mi"), Limits: list("100m", "64Mi")}, "kubepods/burstable/pod", ""},
		{corev1.PodQOSBestEffort, corev1.ResourceRequirements{}, "kubepods/besteffort/pod", "1000"},
	} {
		t.Run(string(c.class), func(t *testing.T) {
			one := shell("c", "cat /proc/1/oom_score_adj; "+idle)
			one.Resources = c.resources
			p := startPod(t, ns, pod(strings.ToLower(string(c.class)), one))
			if p.Status.QOSClass != c.class {
				t.Errorf("class %s", p.Status.QOSClass)
			}
			if c.adj != "" && strings.TrimSpace(logsOf(t, ns, p.Name, "c")) != c.adj {
				t.Errorf("oom_score_adj %s, want %s", logsOf(t, ns, p.Name, "c"), c.adj)
			}
			if got := cgroupOf(t, p); got != c.parent+string(p.UID) {
				t.Errorf("its cgroup is %s", got)
			}
		})
	}
}

// TestInitContainersRunInOrder: one after another, before the containers, with the
// volumes of the pod.
func TestInitContainersRunInOrder(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("init", shell("main", "cat /shared/order"))
	for i := range 3 {
		p.Spec.InitContainers = append(p.Spec.InitContainers, shell(fmt.Sprintf("init-%d", i), fmt.Sprintf("echo %d >> /shared/order", i)))
	}
	shared.Create(t, ns, withShared(p))
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	if got := logsOf(t, ns, p.Name, "main"); got != "0\n1\n2\n" {
		t.Errorf("order %q", got)
	}
	for _, status := range done.Status.InitContainerStatuses {
		if end := status.State.Terminated; end == nil || end.ExitCode != 0 || end.Reason != "Completed" {
			t.Errorf("%s: %+v", status.Name, status.State)
		}
	}
}

// TestInitContainerFails: nothing after it runs, and the pod has failed.
func TestInitContainerFails(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("init", shell("main", "echo never"))
	p.Spec.InitContainers = []corev1.Container{shell("bad", "exit 7"), shell("next", "true")}
	shared.Create(t, ns, p)
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	if done.Status.Phase != corev1.PodFailed {
		t.Errorf("phase %s", done.Status.Phase)
	}
	if end := suite.Status(done, "bad").State.Terminated; end == nil || end.ExitCode != 7 || end.Reason != "Error" {
		t.Errorf("bad: %+v", suite.Status(done, "bad").State)
	}
	for _, name := range []string{"next", "main"} {
		if status := suite.Status(done, name); status.ContainerID != "" {
			t.Errorf("%s was made: %+v", name, status)
		}
	}
}

// TestSidecar: an init container that goes on starts before the others, comes back
// when it fails, does not keep the pod from completing, and is the last to end.
func TestSidecar(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	always := corev1.ContainerRestartPolicyAlways
	side := shell("side", `echo side up >> /shared/story; touch /shared/up
trap 'echo side down >> /shared/story; cat /shared/story > /dev/termination-log; exit 0' TERM
[ -e /shared/again ] || { touch /shared/again; sleep 1; exit 3; }
while :; do sleep 0.2; done`)
	side.RestartPolicy = &always
	side.StartupProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/shared/up"}}},
		PeriodSeconds: 1, FailureThreshold: 30,
	}
	p := pod("sidecar", shell("main", "echo main up >> /shared/story; while [ $(grep -c 'side up' /shared/story) -lt 2 ]; do sleep 0.2; done; echo main down >> /shared/story"))
	p.Spec.InitContainers = []corev1.Container{side}
	shared.Create(t, ns, withShared(p))
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	if done.Status.Phase != corev1.PodSucceeded {
		t.Errorf("phase %s: %+v", done.Status.Phase, done.Status)
	}
	status := suite.Status(done, "side")
	if status.RestartCount < 1 || status.State.Terminated == nil {
		t.Fatalf("sidecar: %+v", status)
	}
	story := status.State.Terminated.Message
	if first, last := strings.Index(story, "main up"), strings.Index(story, "side down"); !strings.HasPrefix(story, "side up") || first < 0 || last < strings.Index(story, "main down") {
		t.Errorf("story:\n%s", story)
	}
}

// probe is asked each second; two failures count.
func probe(h corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 2}
}

// TestProbes: each kind of probe finds its container well and ready; once it is
// told to misbehave the container is not ready, and is restarted by its liveness
// probe.
func TestProbes(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	grpcPort := int32(5000)
	for name, c := range map[string]struct {
		container corev1.Container
		handler   corev1.ProbeHandler
		misbehave []string
	}{
		"exec": {
			shell("c", "touch /tmp/well; "+idle),
			corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/well"}}},
			[]string{"rm", "/tmp/well"},
		},
		"http": {
			shell("c", "mkdir -p /tmp/www; echo well > /tmp/www/well; httpd -f -p 8080 -h /tmp/www & "+idle),
			corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/well", Port: number(8080)}},
			[]string{"rm", "/tmp/www/well"},
		},
		"tcp": {
			shell("c", "httpd -f -p 9000 & echo $! > /tmp/pid; "+idle),
			corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: number(9000)}},
			[]string{"sh", "-c", "kill $(cat /tmp/pid)"},
		},
		"grpc": {
			corev1.Container{Name: "c", Image: shared.Images.Agnhost, Args: []string{"grpc-health-checking", "--port=5000", "--http-port=8080"}},
			corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: grpcPort}},
			nil, // told over HTTP, see below
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.container.ReadinessProbe, c.container.LivenessProbe = probe(c.handler), probe(c.handler)
			c.container.LivenessProbe.FailureThreshold = 4
			c.container.StartupProbe = probe(c.handler)
			c.container.StartupProbe.FailureThreshold = 60
			p := pod("probe-"+name, c.container)
			p.Spec.RestartPolicy = corev1.RestartPolicyAlways
			shared.Create(t, ns, p)
			shared.AwaitPod(t, ns, p.Name, "ready", suite.Ready)
			if c.misbehave == nil {
				get(t, ns, p.Name, 8080, "/make-not-serving")
			} else {
				shared.Do(t, append([]string{"exec", "-n", ns, p.Name, "--"}, c.misbehave...)...)
			}
			shared.AwaitPod(t, ns, p.Name, "not ready", func(p *corev1.Pod) bool { return !suite.Ready(p) })
			shared.AwaitPod(t, ns, p.Name, "restarted and ready", func(p *corev1.Pod) bool {
				return suite.Status(p, "c").RestartCount > 0 && suite.Ready(p)
			})
			awaitEvent(t, ns, p.Name, "Unhealthy", "Liveness probe")
		})
	}
}

// TestStartupProbeFails: the container is killed though its liveness is fine.
func TestStartupProbeFails(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	c := shell("c", idle)
	c.StartupProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}})
	c.LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}})
	p := pod("startup", c)
	shared.Create(t, ns, p)
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	if suite.Ready(done) || suite.Status(done, "c").State.Terminated == nil {
		t.Errorf("%+v", done.Status)
	}
	awaitEvent(t, ns, p.Name, "Unhealthy", "Startup probe failed")
}

// TestExecProbeTimeout: a probe that hangs is given up, and does not stay behind.
func TestExecProbeTimeout(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	c := shell("c", idle)
	c.LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", "123456"}}})
	c.LivenessProbe.TimeoutSeconds = 1
	p := pod("timeout", c)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	shared.Create(t, ns, p)
	shared.AwaitPod(t, ns, p.Name, "restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	awaitEvent(t, ns, p.Name, "Unhealthy", "timed out")
}
