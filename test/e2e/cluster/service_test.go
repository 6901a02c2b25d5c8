package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// A service is reached by its name, from a pod beside its own and from its own.
func TestServiceByName(t *testing.T) {
	ns := shared.Namespace(t)
	shared.Create(t, ns, shared.Agnhost("web", "netexec", "--http-port=8080"))
	shared.Create(t, ns, shared.Shell("client", "exec sleep 1000"))
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "service"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}
	if _, err := shared.Client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	shared.AwaitReady(t, ns, "web")
	shared.AwaitReady(t, ns, "client")
	for _, from := range []string{"client", "web"} {
		for _, name := range []string{"service", "service." + ns + ".svc.cluster.local"} {
			suite.Await(t, suite.Limit, fmt.Sprintf("%s reaches %s", from, name), func(ctx context.Context) (bool, error) {
				out, err := shared.Kubectl.Run(ctx, "exec", "-n", ns, from, "--", "probe", "get", "http://"+name+"/hostname")
				return strings.TrimSpace(out) == "web", err
			})
		}
	}
}
