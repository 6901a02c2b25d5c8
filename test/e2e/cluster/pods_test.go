package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/invariant"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pod is a pod that is not restarted and has two seconds to end.
func pod(name string, containers ...corev1.Container) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			Containers:                    containers,
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &grace,
		},
	}
}

// shell is a container that runs a script in busybox' shell.
func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: shared.Images.Busybox, Command: []string{"sh", "-c", script}}
}

// idle is a script that waits, and ends at once when it is told to.
const idle = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"

// withShared gives all containers of the pod one directory at /shared.
func withShared(p *corev1.Pod) *corev1.Pod {
	return mount(p, "/shared", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
}

// onHost gives all containers of the pod a directory at /shared, and returns where
// the tests find it.
func onHost(t *testing.T, p *corev1.Pod) string {
	dir := t.TempDir()
	kind := corev1.HostPathDirectory
	mount(p, "/shared", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}})
	return dir
}

// mount gives all containers of the pod a volume at path.
func mount(p *corev1.Pod, path string, source corev1.VolumeSource) *corev1.Pod {
	name := fmt.Sprintf("volume-%d", len(p.Spec.Volumes))
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
		}
	}
	return p
}

// startPod creates a pod and waits until it is ready.
func startPod(t *testing.T, ns string, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	shared.Create(t, ns, p)
	return shared.AwaitReady(t, ns, p.Name)
}

// condition is the status of a pod's condition.
func condition(p *corev1.Pod, kind corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// over reports whether a pod has ended.
func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// logsOf is what a container wrote.
func logsOf(t *testing.T, ns, pod, container string) string {
	t.Helper()
	return shared.Do(t, "logs", "-n", ns, pod, "-c", container)
}

// awaitEvent waits for an event of a pod whose message has the text in it.
func awaitEvent(t *testing.T, ns, pod, reason, text string) {
	t.Helper()
	suite.Await(t, suite.Limit, fmt.Sprintf("event %s %q of pod %s", reason, text, pod), func(ctx context.Context) (bool, error) {
		events, err := shared.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",reason=" + reason})
		if err != nil {
			return false, err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, text) {
				return true, nil
			}
		}
		return false, nil
	})
}

// get asks a pod over HTTP, through the API server.
func get(t *testing.T, ns, pod string, port int, path string) string {
	t.Helper()
	answer, err := shared.Client.CoreV1().Pods(ns).ProxyGet("http", pod, fmt.Sprint(port), path, nil).DoRaw(t.Context())
	must(t, err)
	return string(answer)
}

// cgroupOf is the path of a pod's cgroup below that of the node.
func cgroupOf(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	roots, err := invariant.CgroupMounts()
	must(t, err)
	for _, root := range roots {
		node := filepath.Join(root, shared.Worker.Cgroup())
		for _, pattern := range []string{"kubepods/pod", "kubepods/*/pod"} {
			if found, _ := filepath.Glob(filepath.Join(node, pattern+string(p.UID))); len(found) > 0 {
				return strings.TrimPrefix(found[0], node+"/")
			}
		}
	}
	t.Fatalf("pod %s has no cgroup", p.Name)
	return ""
}

// awaitNoSandbox waits until cri-node knows nothing more of a pod.
func awaitNoSandbox(t *testing.T, p *corev1.Pod) {
	t.Helper()
	suite.Await(t, suite.Limit, "no sandbox of pod "+p.Name, func(ctx context.Context) (bool, error) {
		list, err := shared.Worker.Node.Raw.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
			Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(p.UID)}},
		})
		return err == nil && len(list.Items) == 0, err
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func number(port int32) intstr.IntOrString { return intstr.FromInt32(port) }

func pointer[T any](v T) *T { return &v }
