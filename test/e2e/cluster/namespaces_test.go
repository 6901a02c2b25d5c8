package cluster

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestHostNamespaces: of the network, of processes and of System V IPC, where a
// pod asks for the node's.
func TestHostNamespaces(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	link := func(kind string) string {
		l, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		return l
	}
	for kind, set := range map[string]func(*corev1.PodSpec){
		"net": func(s *corev1.PodSpec) { s.HostNetwork = true },
		"pid": func(s *corev1.PodSpec) { s.HostPID = true },
		"ipc": func(s *corev1.PodSpec) { s.HostIPC = true },
	} {
		for _, host := range []bool{true, false} {
			name := kind + "-" + strconv.FormatBool(host)
			p := shared.Shell(name, "readlink /proc/self/ns/"+kind)
			if host {
				set(&p.Spec)
			}
			if out := strings.TrimSpace(shared.Run(t, ns, p)); (out == link(kind)) != host {
				t.Errorf("%s: %s, the node's is %s", name, out, link(kind))
			}
		}
	}
}

// TestShareProcessNamespace: the containers see one another, and somebody reaps.
func TestShareProcessNamespace(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("shared", shell("one", "exec sleep 7777"), shell("two", idle))
	p.Spec.ShareProcessNamespace = pointer(true)
	startPod(t, ns, p)
	out := shared.Do(t, "exec", "-n", ns, p.Name, "-c", "two", "--", "sh", "-c", "ps -o pid,args; (sleep 0.1 &); sleep 1; ps -o stat | grep -c ^Z; true")
	if !strings.Contains(out, "sleep 7777") || !strings.HasSuffix(out, "\n0\n") {
		t.Errorf("two sees\n%s", out)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "1" && strings.HasPrefix(f[1], "sh") {
			t.Errorf("a container is process 1: %s", line)
		}
	}
}

// TestEphemeralContainer: one that is added to look at another shares its processes,
// and through them its files.
func TestEphemeralContainer(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	made := startPod(t, ns, pod("patient", shell("c", "echo ill > /tmp/state; exec sleep 8888"), shell("other", "exec sleep 9999")))
	made.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
		TargetContainerName: "c",
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "doctor", Image: shared.Images.Busybox, Command: []string{"sh", "-c", "ps -o args; cat /proc/1/root/tmp/state; " + idle},
			SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}}},
		},
	}}
	_, err := shared.Client.CoreV1().Pods(ns).UpdateEphemeralContainers(t.Context(), made.Name, made, metav1.UpdateOptions{})
	must(t, err)
	var out string
	suite.Await(t, suite.Limit, "the doctor has looked", func(ctx context.Context) (ok bool, err error) {
		out, err = shared.Kubectl.Run(ctx, "logs", "-n", ns, made.Name, "-c", "doctor")
		return strings.HasSuffix(out, "ill\n"), err
	})
	if !strings.Contains(out, "sleep 8888") || strings.Contains(out, "sleep 9999") {
		t.Errorf("the doctor sees\n%s", out)
	}
}

// TestRuntimeClass: a handler of the node, and one that it has not, which is named.
func TestRuntimeClass(t *testing.T) {
	t.Parallel()
	shared.ExpectKubeletError("no-such-handler")
	ns := shared.Namespace(t)
	for _, handler := range []string{"crun", "no-such-handler"} {
		name := handler + "-" + ns
		shared.DoWith(t, "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: "+name+"}\nhandler: "+handler+"\n", "create", "-f", "-")
		t.Cleanup(func() {
			if _, err := shared.Kubectl.Run(context.WithoutCancel(t.Context()), "delete", "runtimeclass", name); err != nil {
				t.Error(err)
			}
		})
	}
	if _, ok := shared.Prepared.Binaries.Handlers["crun"]; ok {
		p := shared.Shell("crun", "echo well")
		p.Spec.RuntimeClassName = pointer("crun-" + ns)
		if out := shared.Run(t, ns, p); out != "well\n" {
			t.Errorf("got %q", out)
		}
	}
	p := shared.Shell("none", "true")
	p.Spec.RuntimeClassName = pointer("no-such-handler-" + ns)
	shared.Create(t, ns, p)
	awaitEvent(t, ns, "none", "FailedCreatePodSandBox", "no-such-handler")
}
