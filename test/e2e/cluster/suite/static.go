package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
)

// Static gives kubelet the manifest of a pod, which is taken away at the end of the
// test.
func (c *Cluster) Static(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	data, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.DropStatic(t, pod.Name) })
	// kubelet must not see half of it, nor a name that it does not ignore.
	whole := filepath.Join(c.Worker.Manifests, "."+pod.Name)
	if err := os.WriteFile(whole, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(whole, c.manifest(pod.Name)); err != nil {
		t.Fatal(err)
	}
}

// DropStatic takes the manifest away, if it is there.
func (c *Cluster) DropStatic(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(c.manifest(name)); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

func (c *Cluster) manifest(name string) string {
	return filepath.Join(c.Worker.Manifests, name+".yaml")
}

// AwaitStatic waits until a static pod of a kubelet without a control plane is as
// done says; done gets nil for one that there is not.
func (c *Cluster) AwaitStatic(t *testing.T, name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	Await(t, Limit, fmt.Sprintf("static pod %s: %s", name, what), func(ctx context.Context) (bool, error) {
		pods, err := c.kubeletPods(ctx)
		if err != nil {
			return false, err
		}
		found = nil
		for i := range pods {
			if pods[i].Name == name+"-"+c.Worker.Name() {
				found = &pods[i]
			}
		}
		return done(found), nil
	})
	return found
}

func (c *Cluster) kubeletPods(ctx context.Context) ([]corev1.Pod, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/pods", worker.ReadOnlyPort), nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var list corev1.PodList
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("read kubelet's pods: %w", err)
	}
	return list.Items, nil
}
