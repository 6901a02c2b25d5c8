package cluster

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestStaticPod: a manifest in kubelet's directory is a pod that the API server
// shows; it changes with the manifest, and goes with it.
func TestStaticPod(t *testing.T) {
	t.Parallel()
	p := pod("static", shell("c", "echo one; "+idle))
	p.APIVersion, p.Kind, p.Namespace = "v1", "Pod", "default"
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	manifest := filepath.Join(shared.Worker.Manifests, "static.yaml")
	name := p.Name + "-" + shared.Worker.Name()
	write := func() {
		data, err := yaml.Marshal(p)
		must(t, err)
		// kubelet must not read half of it.
		must(t, os.WriteFile(manifest+".new~", data, 0o600))
		must(t, os.Rename(manifest+".new~", manifest))
	}
	write()
	t.Cleanup(func() {
		if err := os.Remove(manifest); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	says := func(text string) {
		suite.Await(t, suite.Limit, "static pod says "+text, func(ctx context.Context) (bool, error) {
			out, err := shared.Kubectl.Run(ctx, "logs", "-n", "default", name)
			return out == text+"\n", err
		})
	}
	says("one")
	p.Spec.Containers[0] = shell("c", "echo two; "+idle)
	write()
	says("two")
	must(t, os.Remove(manifest))
	suite.Await(t, suite.Limit, "static pod is gone", func(ctx context.Context) (bool, error) {
		_, err := shared.Client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}
