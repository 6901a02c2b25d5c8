package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// What cri-node and the monitor may take with a hundred pods at rest, while
// kubelet lists them each second: part of one processor, and bytes.
const (
	restCPU    = 0.01
	restMemory = 60 << 20
)

// ofNode are the processes of the shared node: the daemon and the monitor.
func ofNode(t *testing.T) []usage.Process {
	t.Helper()
	daemon, err := shared.Worker.Node.Daemon()
	must(t, err)
	monitors, err := shared.Worker.Node.Monitors()
	must(t, err)
	return append(monitors, daemon)
}

// processorTime is what the processes have used, in seconds.
func processorTime(t *testing.T, processes []usage.Process) (seconds float64) {
	t.Helper()
	for _, p := range processes {
		stat := readFile(t, fmt.Sprintf("/proc/%d/stat", p.PID))
		// proc_pid_stat(5): utime and stime, in hundredths, are the 14th and 15th.
		fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		var user, system int64
		_, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
		must(t, err)
		seconds += float64(user+system) / 100
	}
	return seconds
}

// TestHundredPods: they come up, cost next to nothing at rest, and go.
func TestHundredPods(t *testing.T) {
	pods := pace.Count(100, 30)
	ns := shared.Namespace(t)
	d := deployment("many", "one", int32(pods))
	d.Spec.Template.Spec.Containers = []corev1.Container{shell("c", idle)}
	began := time.Now()
	_, err := shared.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	must(t, err)
	ready := func(count int32) {
		suite.Await(t, 10*time.Minute, fmt.Sprintf("%d pods", count), func(ctx context.Context) (bool, error) {
			now, err := shared.Client.AppsV1().Deployments(ns).Get(ctx, "many", metav1.GetOptions{})
			return err == nil && now.Status.ReadyReplicas == count && now.Status.Replicas == count, err
		})
	}
	ready(int32(pods))
	t.Logf("%d pods are ready after %v", pods, time.Since(began).Round(time.Second))
	processes := ofNode(t)
	// The first minute is of what comes after a start: probes of images, events.
	rest := time.Minute
	var share float64
	for range 3 {
		before := processorTime(t, processes)
		pause(t, rest)
		if share = (processorTime(t, processes) - before) / rest.Seconds(); share < restCPU {
			break
		}
	}
	pss, err := usage.PSS(processes...)
	must(t, err)
	t.Logf("at rest: %.2f %% of a processor, %.1f MB PSS", 100*share, float64(pss)/(1<<20))
	if share >= restCPU {
		t.Errorf("cri-node uses %.2f %% of a processor", 100*share)
	}
	if pss >= restMemory {
		t.Errorf("cri-node has %d bytes", pss)
	}
	began = time.Now()
	shared.Do(t, "scale", "deployment", "-n", ns, "many", "--replicas=0")
	ready(0)
	suite.Await(t, 10*time.Minute, "no pod", func(ctx context.Context) (bool, error) {
		left, err := shared.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		return err == nil && len(left.Items) == 0, err
	})
	t.Logf("they are gone after %v", time.Since(began).Round(time.Second))
}

// pause waits for a time that is measured over.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// churnVariable names the environment variable with how long TestChurn goes on.
const churnVariable = "CRI_NODE_CHURN"

// TestChurn makes pods come and go, for ten minutes where nothing else is said;
// kubelet's log then has no error of the runtime.
func TestChurn(t *testing.T) {
	length := 10 * time.Minute
	if text := os.Getenv(churnVariable); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		must(t, err)
	}
	ns := shared.Namespace(t)
	end := make(chan struct{})
	timer := time.AfterFunc(length, func() { close(end) })
	defer timer.Stop()
	const workers = 4
	errs := make(chan error, workers)
	total := make(chan int, workers)
	for i := range workers {
		go func() {
			count, err := churn(t, ns, fmt.Sprintf("churn%d", i), end)
			total <- count
			errs <- err
		}()
	}
	sum := 0
	for range workers {
		sum += <-total
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wrong, err := shared.KubeletErrors()
	must(t, err)
	t.Logf("%d pods came and went in %v", sum, length)
	for _, line := range wrong {
		t.Error(line)
	}
}
