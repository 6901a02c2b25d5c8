package alone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

func ready(p *corev1.Pod) bool { return p != nil && suite.Ready(p) }
func gone(p *corev1.Pod) bool  { return p == nil }

// A pod with what most pods have: an init container, a sidecar, volumes, probes,
// limits and a hook.
func TestStaticPodWithAllParts(t *testing.T) {
	pod := shared.Shell("whole", `until [ -e /scratch/hooked ]; do :; done; cat /scratch/made; grep -c ' /scratch tmpfs ' /proc/mounts; exec sleep 1000`)
	always := corev1.ContainerRestartPolicyAlways
	scratch := []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory},
	}}}
	pod.Spec.InitContainers = []corev1.Container{
		{Name: "first", Image: shared.Images.Busybox, Command: []string{"sh", "-c", "echo made > /scratch/made"}, VolumeMounts: scratch},
		{
			Name: "beside", Image: shared.Images.Busybox, Command: []string{"probe", "httpd", "--addr=:8080"},
			RestartPolicy: &always,
			StartupProbe:  &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
		},
	}
	main := &pod.Spec.Containers[0]
	main.VolumeMounts = scratch
	main.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
	main.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"touch", "/scratch/hooked"}}}}
	main.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/scratch/hooked"}}}}
	shared.Static(t, pod)
	now := shared.AwaitStatic(t, "whole", "ready", ready)
	if first := suite.Status(now, "first").State.Terminated; first == nil || first.ExitCode != 0 {
		t.Errorf("the init container is %+v", suite.Status(now, "first").State)
	}
	if now.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("the pod is %s", now.Status.QOSClass)
	}
	logs, err := filepath.Glob(filepath.Join(shared.Dir, "node1", "podlogs", "*_whole-node1_*", "main", "0.log"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("the logs of the container are %q: %v", logs, err)
	}
	text, err := os.ReadFile(logs[0])
	if err != nil || !strings.Contains(string(text), "stdout F made\n") || !strings.Contains(string(text), "stdout F 1\n") {
		t.Errorf("the container wrote %q: %v", text, err)
	}
	shared.DropStatic(t, "whole")
	shared.AwaitStatic(t, "whole", "gone", gone)
}

func TestContainerIsRestartedAndKeepsItsExitCode(t *testing.T) {
	pod := shared.Shell("again", "exit 7")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	shared.Static(t, pod)
	now := shared.AwaitStatic(t, "again", "restarted", func(p *corev1.Pod) bool {
		return p != nil && suite.Status(p, "main").RestartCount > 0 && suite.Status(p, "main").LastTerminationState.Terminated != nil
	})
	if ended := suite.Status(now, "main").LastTerminationState.Terminated; ended.ExitCode != 7 || ended.Reason != "Error" {
		t.Errorf("the container ended with %+v", ended)
	}
}

// A pod goes on through the end of kubelet and of cri-node, each killed.
func TestPodSurvivesKubeletAndRuntime(t *testing.T) {
	pod := shared.Shell("steady", "exec sleep 1000")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	shared.Static(t, pod)
	before := suite.Status(shared.AwaitStatic(t, "steady", "ready", ready), "main")
	shared.ExpectKubeletError(`code = Unavailable|connection refused|no such file or directory|error reading server preface|transport is closing|EOF`)
	if err := shared.Worker.KillKubelet(); err != nil {
		t.Fatal(err)
	}
	if err := shared.Worker.Node.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := shared.Worker.Node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := shared.Worker.StartKubelet(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := suite.Status(shared.AwaitStatic(t, "steady", "ready again", ready), "main")
	if after.ContainerID != before.ContainerID || after.RestartCount != before.RestartCount {
		t.Errorf("the container was %s, restarted %d times, and is %s, restarted %d times",
			before.ContainerID, before.RestartCount, after.ContainerID, after.RestartCount)
	}
	// cri-node alone, while kubelet looks on.
	if err := shared.Worker.Node.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := shared.Worker.Node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := shared.Worker.Await(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	after = suite.Status(shared.AwaitStatic(t, "steady", "ready once more", ready), "main")
	if after.ContainerID != before.ContainerID {
		t.Errorf("the container was %s and is %s", before.ContainerID, after.ContainerID)
	}
}

// A pod in the node's network sees the node's bridge.
func TestHostNetworkPod(t *testing.T) {
	pod := shared.Shell("host", "test -d /sys/class/net/"+cage.LAN+" && exec sleep 1000")
	pod.Spec.HostNetwork = true
	shared.Static(t, pod)
	shared.AwaitStatic(t, "host", "ready", ready)
}
