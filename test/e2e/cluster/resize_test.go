package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// limits are the shell's words for what the kernel holds a container to: its
// processor time in thousandths and its memory in bytes.
const limits = `if [ -e /sys/fs/cgroup/cpu.max ]; then awk '{print $1/$2*1000}' /sys/fs/cgroup/cpu.max; cat /sys/fs/cgroup/memory.max
else echo $(($(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)*1000/$(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us))); cat /sys/fs/cgroup/memory/memory.limit_in_bytes; fi`

// TestInPlaceResize: more and less processor time and memory, without a restart
// but where the container asks for one.
func TestInPlaceResize(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	running, restarting := shell("running", idle), shell("restarting", idle)
	for _, c := range []*corev1.Container{&running, &restarting} {
		c.Resources = corev1.ResourceRequirements{Limits: list("100m", "32Mi"), Requests: list("10m", "16Mi")}
	}
	restarting.ResizePolicy = []corev1.ContainerResizePolicy{
		{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired},
		{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer},
	}
	p := pod("resized", running, restarting)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	before := startPod(t, ns, p)
	for _, step := range []struct {
		cpu, memory string
		want        string
	}{{"200m", "64Mi", "200 67108864"}, {"50m", "48Mi", "50 50331648"}} {
		patch := func(name string) string {
			return fmt.Sprintf(`{"name":%q,"resources":{"limits":{"cpu":%q,"memory":%q},"requests":{"cpu":"10m","memory":"16Mi"}}}`, name, step.cpu, step.memory)
		}
		_, err := shared.Client.CoreV1().Pods(ns).Patch(t.Context(), p.Name, types.StrategicMergePatchType,
			fmt.Appendf(nil, `{"spec":{"containers":[%s,%s]}}`, patch("running"), patch("restarting")), metav1.PatchOptions{}, "resize")
		must(t, err)
		for _, name := range []string{"running", "restarting"} {
			suite.Await(t, suite.Limit, name+" has "+step.want, func(ctx context.Context) (bool, error) {
				out, err := shared.Kubectl.Run(ctx, "exec", "-n", ns, p.Name, "-c", name, "--", "sh", "-c", limits)
				return strings.Join(strings.Fields(out), " ") == step.want, err
			})
			shared.AwaitPod(t, ns, p.Name, "status of "+name+" says so", func(p *corev1.Pod) bool {
				r := suite.Status(p, name).Resources
				return r != nil && r.Limits.Memory().Cmp(resource.MustParse(step.memory)) == 0 && r.Limits.Cpu().Cmp(resource.MustParse(step.cpu)) == 0
			})
		}
	}
	after := shared.AwaitReady(t, ns, p.Name)
	if was, is := suite.Status(before, "running"), suite.Status(after, "running"); is.ContainerID != was.ContainerID || is.RestartCount != 0 {
		t.Errorf("restarted: %+v", is)
	}
	if is := suite.Status(after, "restarting"); is.RestartCount != 2 {
		t.Errorf("%d restarts, want 2", is.RestartCount)
	}
}
