package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// heart is a pod that writes the time, in hundredths of a second since boot, each
// tenth of one.
func heart(t *testing.T, name string) (p *corev1.Pod, beats string) {
	t.Helper()
	p = pod(name, shell("c", `trap 'exit 0' TERM; while :; do cut -d' ' -f1 /proc/uptime | tr -d . >> /shared/beats; sleep 0.1; done`))
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return p, filepath.Join(onHost(t, p), "beats")
}

// longestPause is the longest time between two beats, and how many there are.
func longestPause(t *testing.T, beats string) (longest time.Duration, count int) {
	t.Helper()
	f, err := os.Open(beats)
	must(t, err)
	defer f.Close()
	var before int64
	for lines := bufio.NewScanner(f); lines.Scan(); count++ {
		var now int64
		if _, err := fmt.Sscan(lines.Text(), &now); err != nil {
			t.Fatal(err)
		}
		if before != 0 {
			longest = max(longest, time.Duration(now-before)*10*time.Millisecond)
		}
		before = now
	}
	return longest, count
}

// unchanged fails the test if a container of the pod is another one than before or
// was restarted.
func unchanged(t *testing.T, before, after *corev1.Pod) {
	t.Helper()
	for i, was := range before.Status.ContainerStatuses {
		if is := after.Status.ContainerStatuses[i]; is.ContainerID != was.ContainerID || is.RestartCount != was.RestartCount || is.State.Running == nil {
			t.Errorf("container %s of pod %s: was %+v, is %+v", was.Name, before.Name, was, is)
		}
	}
	if before.Status.PodIP != after.Status.PodIP {
		t.Errorf("pod %s had address %s, has %s", before.Name, before.Status.PodIP, after.Status.PodIP)
	}
}

// churn makes pods that say their name, end and are deleted, one after another,
// three at least and until it is told to end; each must get there. It returns how
// many did.
func churn(t *testing.T, ns, name string, end <-chan struct{}) (count int, err error) {
	ctx := context.WithoutCancel(t.Context())
	pods := shared.Client.CoreV1().Pods(ns)
	for {
		select {
		case <-end:
			if count >= 3 {
				return count, nil
			}
		default:
		}
		p := pod(fmt.Sprintf("%s-%d", name, count), shell("c", "hostname"))
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return count, err
		}
		watch, cancel := context.WithTimeout(ctx, 2*time.Minute)
		done, err := awaitOver(watch, ns, p.Name)
		cancel()
		if err != nil {
			return count, err
		}
		if done.Status.Phase != corev1.PodSucceeded {
			return count, fmt.Errorf("pod %s: %s: %+v", p.Name, done.Status.Phase, done.Status.ContainerStatuses)
		}
		if out, err := shared.Kubectl.Run(ctx, "logs", "-n", ns, p.Name); err == nil && out != p.Name+"\n" {
			return count, fmt.Errorf("pod %s wrote %q", p.Name, out)
		}
		if err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			return count, err
		}
		count++
	}
}

// awaitOver waits until a pod has ended.
func awaitOver(ctx context.Context, ns, name string) (*corev1.Pod, error) {
	w, err := shared.Client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if p, ok := e.Object.(*corev1.Pod); ok && over(p) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %s has not ended", name)
}

// underLoad runs do while pods come and go, and while one beats; nothing of it may
// notice.
func underLoad(t *testing.T, do func()) {
	t.Helper()
	ns := shared.Namespace(t)
	p, beats := heart(t, "heart")
	before := startPod(t, ns, p)
	end := make(chan struct{})
	type result struct {
		count int
		err   error
	}
	results := make(chan result, 2)
	for i := range 2 {
		go func() {
			count, err := churn(t, ns, fmt.Sprintf("churn%d", i), end)
			results <- result{count, err}
		}()
	}
	do()
	close(end)
	for range 2 {
		r := <-results
		if r.err != nil {
			t.Errorf("after %d pods: %v", r.count, r.err)
		}
		t.Logf("%d pods came and went", r.count)
	}
	unchanged(t, before, shared.AwaitReady(t, ns, "heart"))
	if longest, count := longestPause(t, beats); longest > 3*time.Second || count < 10 {
		t.Errorf("%d beats, the longest pause was %v", count, longest)
	}
	if out := shared.Do(t, "exec", "-n", ns, "heart", "--", "echo", "well"); out != "well\n" {
		t.Errorf("exec says %q", out)
	}
}

// TestDaemonKilledUnderLoad: cri-node is killed and started again, three times.
func TestDaemonKilledUnderLoad(t *testing.T) {
	shared.ExpectKubeletError("Unavailable|connection refused|connection error|EOF|error reading from server|DeadlineExceeded|context deadline")
	underLoad(t, func() {
		for range 3 {
			must(t, shared.Worker.Node.Kill())
			must(t, shared.Worker.Node.Restart(t.Context()))
			ns := shared.Namespace(t)
			shared.Run(t, ns, shared.Shell("between", "true"))
		}
	})
}

// TestDaemonUpgradedUnderLoad: another program takes the place of cri-node's, as a
// package manager does it, and of the monitor's.
func TestDaemonUpgradedUnderLoad(t *testing.T) {
	shared.ExpectKubeletError("Unavailable|connection refused|connection error|EOF|error reading from server|DeadlineExceeded|context deadline")
	next := filepath.Join(shared.Dir, "bin", "cri-node.next")
	data, err := os.ReadFile(shared.Prepared.Binaries.Node)
	must(t, err)
	must(t, os.WriteFile(next, data, 0o755))
	underLoad(t, func() {
		n := shared.Worker.Node
		must(t, n.Stop(20*time.Second))
		n.UseProgram(next)
		must(t, n.Restart(t.Context()))
		monitors, err := n.Monitors()
		must(t, err)
		for _, m := range monitors {
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", m.PID)); err != nil || exe != next {
				t.Errorf("the monitor runs %s: %v", exe, err)
			}
		}
	})
}

// TestMonitorKilledUnderLoad: the process that containers' exits are told to dies.
func TestMonitorKilledUnderLoad(t *testing.T) {
	underLoad(t, func() { must(t, shared.Worker.Node.KillMonitor()) })
}

// TestKubeletRestarted: kubelet finds everything as it left it, and what ended in
// between with its exit code.
func TestKubeletRestarted(t *testing.T) {
	ns := shared.Namespace(t)
	p, beats := heart(t, "heart")
	before := startPod(t, ns, p)
	ends := pod("ends", shell("c", "while [ ! -e /shared/end ]; do sleep 0.1; done; exit 5"))
	dir := onHost(t, ends)
	startPod(t, ns, ends)
	must(t, shared.Worker.KillKubelet())
	must(t, os.WriteFile(filepath.Join(dir, "end"), nil, 0o600))
	must(t, shared.Worker.StartKubelet(t.Context()))
	ended := shared.AwaitPod(t, ns, "ends", "over", over)
	if state := suite.Status(ended, "c").State.Terminated; state == nil || state.ExitCode != 5 {
		t.Errorf("what ended in between: %+v", state)
	}
	unchanged(t, before, shared.AwaitReady(t, ns, "heart"))
	if longest, _ := longestPause(t, beats); longest > 3*time.Second {
		t.Errorf("the longest pause was %v", longest)
	}
}

// TestReboot: after a reboot of the node its pods run again, in new sandboxes, and
// their status tells of the restart.
func TestReboot(t *testing.T) {
	shared.ExpectKubeletError("Unavailable|connection refused|connection error|EOF|error reading from server")
	ns := shared.Namespace(t)
	p := pod("again", shell("c", "echo up; "+idle))
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	before := startPod(t, ns, p)
	once := pod("once", shell("c", idle))
	startPod(t, ns, once)
	must(t, errors.Join(shared.Worker.KillKubelet(), shared.Worker.Node.Reboot(t.Context())))
	must(t, shared.Worker.Node.Restart(t.Context()))
	must(t, shared.Worker.StartKubelet(t.Context()))
	after := shared.AwaitPod(t, ns, "again", "restarted and ready", func(p *corev1.Pod) bool {
		return suite.Ready(p) && suite.Status(p, "c").RestartCount > 0
	})
	if suite.Status(after, "c").ContainerID == suite.Status(before, "c").ContainerID {
		t.Error("the container is the same")
	}
	// A pod that is never restarted has failed; kubelet does not start it again.
	failed := shared.AwaitPod(t, ns, "once", "over", over)
	if failed.Status.Phase != corev1.PodFailed {
		t.Errorf("the pod that is never restarted: %s", failed.Status.Phase)
	}
	if out := shared.Do(t, "logs", "-n", ns, "again", "--previous"); !strings.Contains(out, "up") {
		t.Errorf("the log from before: %q", out)
	}
}

// TestEverythingKilled: kubelet, cri-node, the monitor and every container die at
// once. What is started again finds its way, and the end of the suite nothing left.
func TestEverythingKilled(t *testing.T) {
	shared.ExpectKubeletError("Unavailable|connection refused|connection error|EOF|error reading from server")
	ns := shared.Namespace(t)
	for i := range 5 {
		p := pod(fmt.Sprintf("again-%d", i), shell("one", idle), shell("two", idle))
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
		shared.Create(t, ns, withShared(p))
	}
	for i := range 5 {
		shared.AwaitReady(t, ns, fmt.Sprintf("again-%d", i))
	}
	must(t, errors.Join(shared.Worker.KillKubelet(), shared.Worker.Node.Kill(), shared.Worker.Node.KillMonitor()))
	containers, err := usage.InCgroup(shared.Worker.Cgroup())
	must(t, err)
	for _, c := range containers {
		if err := unix.Kill(c.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
	must(t, shared.Worker.Node.Restart(t.Context()))
	must(t, shared.Worker.StartKubelet(t.Context()))
	for i := range 5 {
		shared.AwaitPod(t, ns, fmt.Sprintf("again-%d", i), "restarted and ready", func(p *corev1.Pod) bool {
			return suite.Ready(p) && suite.Status(p, "one").RestartCount > 0 && suite.Status(p, "two").RestartCount > 0
		})
	}
}
