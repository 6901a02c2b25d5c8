package cluster

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestLifecycleHooks: postStart runs beside the container's process, preStop before
// it is told to end.
func TestLifecycleHooks(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	c := shell("c", "trap 'echo term >> /shared/story; exit 0' TERM; while [ ! -e /shared/started ]; do sleep 0.1; done; while :; do sleep 0.1; done")
	c.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo postStart >> /shared/story; touch /shared/started"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "sleep 1; echo preStop >> /shared/story"}}},
	}
	// The witness ends after the container, and tells.
	p := pod("hooks", c)
	story := onHost(t, p)
	grace := int64(20)
	p.Spec.TerminationGracePeriodSeconds = &grace
	startPod(t, ns, p)
	shared.Delete(t, ns, p.Name)
	if got := readFile(t, story+"/story"); got != "postStart\npreStop\nterm\n" {
		t.Errorf("story %q", got)
	}
}

// TestPostStartFails: the container is killed, and the event says why.
func TestPostStartFails(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	c := shell("c", idle)
	c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo no luck; exit 9"}}}}
	p := pod("poststart", c)
	shared.Create(t, ns, p)
	awaitEvent(t, ns, p.Name, "FailedPostStartHook", "")
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	if done.Status.Phase != corev1.PodFailed && done.Status.Phase != corev1.PodSucceeded {
		t.Errorf("phase %s", done.Status.Phase)
	}
}

// TestHTTPPreStop: a hook may be a request to the container itself.
func TestHTTPPreStop(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	server := shell("c", `mkdir -p /tmp/www/cgi-bin; printf '#!/bin/sh\necho asked > /shared/asked\nprintf "Content-Type: text/plain\\n\\nok"\n' > /tmp/www/cgi-bin/stop; chmod +x /tmp/www/cgi-bin/stop; httpd -f -p 8080 -h /tmp/www & `+idle)
	server.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/cgi-bin/stop", Port: number(8080)}}}
	server.ReadinessProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: number(8080)}})
	p := pod("http", server)
	dir := onHost(t, p)
	grace := int64(10)
	p.Spec.TerminationGracePeriodSeconds = &grace
	shared.Create(t, ns, p)
	shared.AwaitPod(t, ns, p.Name, "ready", suite.Ready)
	shared.Delete(t, ns, p.Name)
	if got := readFile(t, dir+"/asked"); got != "asked\n" {
		t.Errorf("the hook was not asked: %q", got)
	}
}

// TestTerminationGrace: a container that does not listen is killed when its time is
// over, no sooner; one that ends by itself is not waited for.
func TestTerminationGrace(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	deaf := pod("deaf", shell("c", "trap '' TERM; while :; do sleep 0.2; done"))
	quick := pod("quick", shell("c", idle))
	short, long := int64(4), int64(60)
	deaf.Spec.TerminationGracePeriodSeconds, quick.Spec.TerminationGracePeriodSeconds = &short, &long
	startPod(t, ns, deaf)
	startPod(t, ns, quick)
	began := time.Now()
	shared.Delete(t, ns, quick.Name)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("a willing pod took %v", took)
	}
	began = time.Now()
	shared.Delete(t, ns, deaf.Name)
	if took := time.Since(began); took < 4*time.Second || took > 30*time.Second {
		t.Errorf("a deaf pod took %v with 4 s of grace", took)
	}
}

// TestForcedDeletion: a pod deleted without grace goes at once, and with it its
// containers.
func TestForcedDeletion(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("forced", shell("c", "trap '' TERM; while :; do sleep 0.2; done"))
	p = startPod(t, ns, p)
	shared.Do(t, "delete", "pod", "-n", ns, p.Name, "--grace-period=0", "--force")
	awaitNoSandbox(t, p)
}

// TestTerminationMessage: from the file, and from the log where that is asked for.
func TestTerminationMessage(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("message",
		shell("file", "printf 'written to the file' > /dev/termination-log"),
		shell("log", "echo written to the log; exit 1"))
	p.Spec.Containers[1].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	shared.Create(t, ns, p)
	done := shared.AwaitPod(t, ns, p.Name, "over", over)
	for name, want := range map[string]string{"file": "written to the file", "log": "written to the log"} {
		if end := suite.Status(done, name).State.Terminated; end == nil || strings.TrimSpace(end.Message) != want {
			t.Errorf("%s: %+v", name, end)
		}
	}
}

// TestActiveDeadline: a pod that takes too long has failed.
func TestActiveDeadline(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("late", shell("c", idle))
	limit := int64(3)
	p.Spec.ActiveDeadlineSeconds = &limit
	shared.Create(t, ns, p)
	if done := shared.AwaitPod(t, ns, p.Name, "over", over); done.Status.Reason != "DeadlineExceeded" {
		t.Errorf("%s: %s", done.Status.Phase, done.Status.Reason)
	}
}
