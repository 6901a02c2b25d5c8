package suite

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/pace"
)

// Limit is how long a test waits for what kubelet does within seconds.
const Limit = 60 * time.Second

// Await calls done until it says so, and ends the test when the time is over; an
// error is no end but said then. The limit is that of a machine of usual speed.
func Await(t *testing.T, limit time.Duration, what string, done func(context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Limit(limit))
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		ok, err := done(ctx)
		if ok && err == nil {
			return
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				t.Fatalf("%s: not within %v: %v", what, pace.Limit(limit), last)
			}
			t.Fatalf("%s: not within %v", what, pace.Limit(limit))
		case <-ticker.C:
		}
	}
}

// Namespace makes a namespace for the test. It is deleted at the end of the test,
// and its pods are waited for; if the test failed, their state is told before.
func (c *Cluster) Namespace(t *testing.T) string {
	t.Helper()
	made, err := c.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := made.Name
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			c.tell(ctx, t, name)
		}
		c.dropNamespace(ctx, t, name)
	})
	Await(t, Limit, "the service account of "+name, func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
	return name
}

// dropNamespace deletes a namespace and waits until no pod is left in it.
func (c *Cluster) dropNamespace(ctx context.Context, t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(2*time.Minute))
	defer cancel()
	if err := c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete namespace: %v", err)
		return
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		pods, err := c.Client.CoreV1().Pods(name).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			c.tell(context.WithoutCancel(ctx), t, name)
			t.Errorf("pods of namespace %s stay: %v", name, err)
			return
		case <-ticker.C:
		}
	}
}

// tell logs what a person would look at first.
func (c *Cluster) tell(ctx context.Context, t *testing.T, namespace string) {
	for _, args := range [][]string{
		{"describe", "pods", "-n", namespace},
		{"get", "events", "-n", namespace, "--sort-by=.lastTimestamp"},
	} {
		out, err := c.Kubectl.Run(ctx, args...)
		if err != nil {
			out += err.Error()
		}
		t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
	t.Logf("logs: %s, %s", c.Logs, c.Worker.Node.Dir)
}

// Pod is a pod of one container, "main", which runs the command in busybox, is
// never restarted and ends within a second.
func (c *Cluster) Pod(name string, command ...string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "main", Image: c.Images.Busybox, Command: command}},
		},
	}
}

// Shell is a pod whose container runs a script.
func (c *Cluster) Shell(name, script string) *corev1.Pod { return c.Pod(name, "sh", "-c", script) }

// Agnhost is a pod whose container runs agnhost with the arguments.
func (c *Cluster) Agnhost(name string, args ...string) *corev1.Pod {
	pod := c.Pod(name)
	pod.Spec.Containers[0].Image, pod.Spec.Containers[0].Args = c.Images.Agnhost, args
	return pod
}

// Create makes a pod.
func (c *Cluster) Create(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := c.Client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create pod %s: %v", pod.Name, err)
	}
	return made
}

// AwaitPod waits until a pod is as done says, and returns it.
func (c *Cluster) AwaitPod(t *testing.T, namespace, name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	Await(t, Limit, fmt.Sprintf("pod %s: %s", name, what), func(ctx context.Context) (bool, error) {
		now, err := c.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		pod = now
		return done(now), nil
	})
	return pod
}

// AwaitReady waits until a pod is ready.
func (c *Cluster) AwaitReady(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	return c.AwaitPod(t, namespace, name, "ready", Ready)
}

// AwaitPhase waits until a pod is in the phase.
func (c *Cluster) AwaitPhase(t *testing.T, namespace, name string, phase corev1.PodPhase) *corev1.Pod {
	t.Helper()
	return c.AwaitPod(t, namespace, name, string(phase), func(p *corev1.Pod) bool { return p.Status.Phase == phase })
}

// Run creates a pod, waits until it has ended well and returns what its container
// main wrote.
func (c *Cluster) Run(t *testing.T, namespace string, pod *corev1.Pod) string {
	t.Helper()
	c.Create(t, namespace, pod)
	ended := c.AwaitPod(t, namespace, pod.Name, "ended", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	out := c.Do(t, "logs", "-n", namespace, pod.Name, "-c", "main")
	if ended.Status.Phase != corev1.PodSucceeded {
		t.Fatalf("pod %s failed: %s", pod.Name, out)
	}
	return out
}

// Delete deletes a pod and waits until it is gone.
func (c *Cluster) Delete(t *testing.T, namespace, name string) {
	t.Helper()
	if err := c.Client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatalf("delete pod %s: %v", name, err)
	}
	Await(t, Limit, "pod "+name+" gone", func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// Do runs kubectl, which must succeed, and returns what it wrote to standard output.
func (c *Cluster) Do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// DoWith is Do with a standard input.
func (c *Cluster) DoWith(t *testing.T, input string, args ...string) string {
	t.Helper()
	out, err := c.Kubectl.Feed(t.Context(), input, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Exec runs a script in the container main of a pod and returns what it wrote.
func (c *Cluster) Exec(t *testing.T, namespace, pod, script string) string {
	t.Helper()
	return strings.TrimSpace(c.Do(t, "exec", "-n", namespace, pod, "-c", "main", "--", "sh", "-c", script))
}

// Ready reports whether a pod is ready.
func Ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Status is that of a container of the pod, of any kind; empty if there is none yet.
func Status(pod *corev1.Pod, container string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for _, s := range list {
			if s.Name == container {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}
