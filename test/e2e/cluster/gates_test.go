package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestFeatureGates: with events instead of lists, and with statistics of the
// runtime instead of kubelet's own, all goes as without.
func TestFeatureGates(t *testing.T) {
	for name, gates := range map[string]map[string]bool{
		"default":      nil,
		"EventedPLEG":  {"EventedPLEG": true},
		"StatsFromCRI": {"PodAndContainerStatsFromCRI": true},
	} {
		t.Run(name, func(t *testing.T) {
			// kubelet's own figures have neither networks, nor numbers of processes,
			// nor names of pods where the runtime is none of those it has code for.
			fromRuntime := gates["PodAndContainerStatsFromCRI"]
			must(t, shared.Worker.Reconfigure(t.Context(), func(c *kubeletconfig.KubeletConfiguration) { c.FeatureGates = gates }))
			t.Cleanup(func() { must(t, shared.Worker.Reconfigure(context.WithoutCancel(t.Context()), nil)) })
			ns := shared.Namespace(t)
			p := pod("lives", shell("c", "[ ! -e /shared/again ] && touch /shared/again && sleep 1 && exit 5; "+idle))
			p.Spec.RestartPolicy = corev1.RestartPolicyAlways
			shared.Create(t, ns, withShared(p))
			again := shared.AwaitPod(t, ns, "lives", "restarted and ready", func(p *corev1.Pod) bool {
				return suite.Ready(p) && suite.Status(p, "c").RestartCount == 1
			})
			if last := suite.Status(again, "c").LastTerminationState.Terminated; last == nil || last.ExitCode != 5 {
				t.Errorf("before that: %+v", suite.Status(again, "c").LastTerminationState)
			}
			shared.Create(t, ns, shared.Shell("ends", "exit 6"))
			if ended := shared.AwaitPod(t, ns, "ends", "over", over); suite.Status(ended, "main").State.Terminated.ExitCode != 6 {
				t.Errorf("status %+v", suite.Status(ended, "main"))
			}
			suite.Await(t, suite.Limit, "statistics of the pod", func(ctx context.Context) (bool, error) { return measured(ctx, ns, "lives", fromRuntime) })
			if fromRuntime {
				metrics(t, ns)
			}
		})
	}
}

// measured reports whether kubelet's summary has all figures of the pod.
func measured(ctx context.Context, ns, name string, all bool) (bool, error) {
	data, err := shared.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(shared.Worker.Name()).SubResource("proxy").Suffix("stats/summary").DoRaw(ctx)
	if err != nil {
		return false, err
	}
	var summary statsapi.Summary
	if err := json.Unmarshal(data, &summary); err != nil {
		return false, err
	}
	for _, p := range summary.Pods {
		if p.PodRef.Name != name || p.PodRef.Namespace != ns {
			continue
		}
		if len(p.Containers) != 1 || p.CPU == nil || p.CPU.UsageCoreNanoSeconds == nil || p.Memory == nil || p.Memory.WorkingSetBytes == nil ||
			p.EphemeralStorage == nil || all && (p.Network == nil || p.Network.RxBytes == nil || p.ProcessStats == nil) {
			return false, fmt.Errorf("figures are missing: %+v", p)
		}
		c := p.Containers[0]
		if c.CPU == nil || c.CPU.UsageNanoCores == nil || c.Memory == nil || *c.Memory.WorkingSetBytes == 0 || c.Rootfs == nil || c.Rootfs.UsedBytes == nil || c.Logs == nil {
			return false, fmt.Errorf("figures of the container are missing: %+v", c)
		}
		return true, nil
	}
	return false, fmt.Errorf("no pod %s in the summary", name)
}

// metrics looks for the pod's containers where Prometheus would.
func metrics(t *testing.T, ns string) {
	t.Helper()
	for _, path := range []string{"metrics/resource", "metrics/cadvisor"} {
		suite.Await(t, suite.Limit, "the pod in "+path, func(ctx context.Context) (bool, error) {
			data, err := shared.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(shared.Worker.Name()).SubResource("proxy").Suffix(path).DoRaw(ctx)
			for line := range strings.Lines(string(data)) {
				if strings.Contains(line, `namespace="`+ns+`"`) && strings.Contains(line, "cpu_usage_seconds_total") {
					return true, nil
				}
			}
			return false, err
		})
	}
}
