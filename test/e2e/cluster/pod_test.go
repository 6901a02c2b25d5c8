package cluster

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodRuns(t *testing.T) {
	ns := shared.Namespace(t)
	shared.Create(t, ns, shared.Shell("web", "echo hello; exec sleep 1000"))
	pod := shared.AwaitReady(t, ns, "web")
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || !shared.Worker.Node.Subnets[0].Contains(ip) {
		t.Errorf("the pod has address %q, want one in %v: %v", pod.Status.PodIP, shared.Worker.Node.Subnets[0], err)
	}
	if id := pod.Status.ContainerStatuses[0].ContainerID; !strings.HasPrefix(id, "cri-node://") {
		t.Errorf("the container's id is %q, want one of cri-node", id)
	}
	if out := shared.Exec(t, ns, "web", "hostname; cat /etc/resolv.conf"); !strings.HasPrefix(out, "web\n") || !strings.Contains(out, "nameserver 10.96.0.10") {
		t.Errorf("inside the pod is %q", out)
	}
	shared.Delete(t, ns, "web")
}

func TestPodEnds(t *testing.T) {
	ns := shared.Namespace(t)
	if out := shared.Run(t, ns, shared.Shell("well", "echo done")); out != "done\n" {
		t.Errorf("the pod wrote %q", out)
	}
	shared.Create(t, ns, shared.Shell("badly", "exit 7"))
	pod := shared.AwaitPhase(t, ns, "badly", corev1.PodFailed)
	if ended := pod.Status.ContainerStatuses[0].State.Terminated; ended == nil || ended.ExitCode != 7 || ended.Reason != "Error" {
		t.Errorf("the container ended with %+v", ended)
	}
}
