package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
)

// smallDisk mounts a file system of its own, of the size in bytes, at a path.
func smallDisk(t *testing.T, path string, size int64) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	must(t, os.MkdirAll(path, 0o755))
	f, err := os.Create(file)
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", file}, {"mount", "-o", "loop", file, path}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", path).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", path, err, out)
		}
	})
}

// TestDiskPressure: where the disk runs full, the pod that has written too much is
// evicted, with the reason in its status; the others stay, and the node recovers.
func TestDiskPressure(t *testing.T) {
	disk := filepath.Join(shared.Dir, "full")
	smallDisk(t, disk, 700<<20)
	tmp := filepath.Join(disk, "tmp")
	must(t, os.Mkdir(tmp, 0o755))
	t.Setenv("TMPDIR", tmp) // where cri-node's directory is made
	join(t, "full", 5, func(o *worker.Options) {
		o.Dir = filepath.Join(disk, "worker")
		o.Kubelet = func(c *kubeletconfig.KubeletConfiguration) {
			c.EvictionHard = map[string]string{"nodefs.available": "150Mi", "imagefs.available": "150Mi"}
			// Who has written how much must be known before it is asked for.
			c.VolumeStatsAggPeriod = metav1.Duration{Duration: 2e9}
			c.EvictionPressureTransitionPeriod = metav1.Duration{Duration: 1e9}
		}
	})
	ns := shared.Namespace(t)
	modest := on("full", pod("modest", shell("c", idle)))
	greedy := on("full", withShared(pod("greedy", shell("c", "while [ ! -e /tmp/go ]; do sleep 0.1; done; dd if=/dev/zero of=/shared/big bs=1M count=600 2>/dev/null; exec sleep 1000"))))
	before := startPod(t, ns, modest)
	startPod(t, ns, greedy)
	shared.Do(t, "exec", "-n", ns, "greedy", "--", "touch", "/tmp/go")
	evicted := shared.AwaitPod(t, ns, "greedy", "evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted" })
	if !strings.Contains(evicted.Status.Message, "low on resource: ephemeral-storage") {
		t.Errorf("message %q", evicted.Status.Message)
	}
	shared.Delete(t, ns, "greedy")
	suite.Await(t, 2*suite.Limit, "the node has recovered", func(ctx context.Context) (bool, error) {
		n, err := shared.Client.CoreV1().Nodes().Get(ctx, "full", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeDiskPressure && c.Status == corev1.ConditionFalse {
				return true, nil
			}
		}
		return false, fmt.Errorf("conditions %+v", n.Status.Conditions)
	})
	unchanged(t, before, shared.AwaitReady(t, ns, "modest"))
}
