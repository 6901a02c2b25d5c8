package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// waits returns the reason and message for which a container waits, once it does
// for one of the reasons.
func waits(t *testing.T, ns, name string, reasons ...string) string {
	t.Helper()
	var message string
	shared.AwaitPod(t, ns, name, "waits for "+strings.Join(reasons, " or "), func(p *corev1.Pod) bool {
		waiting := suite.Status(p, "c").State.Waiting
		if waiting == nil {
			return false
		}
		message = waiting.Message
		return slices.Contains(reasons, waiting.Reason)
	})
	return message
}

// TestImagePullSecrets: a registry that asks who one is, without and with a secret.
func TestImagePullSecrets(t *testing.T) {
	t.Parallel()
	shared.ExpectKubeletError("private/")
	ns := shared.Namespace(t)
	private, err := registry.Start()
	must(t, err)
	t.Cleanup(func() { must(t, private.Close()) })
	base, err := image.Busybox()
	must(t, err)
	img, err := image.Build(image.Spec{Layers: [][]image.File{base}, Config: v1.Config{Cmd: []string{"echo", "let in"}}})
	must(t, err)
	_, err = private.Push(t.Context(), "private/"+ns+":1", img)
	must(t, err)
	private.Require(registry.Auth{Username: "jane", Password: "open"})
	ref := private.Ref("private/" + ns + ":1")

	shared.Create(t, ns, pod("stranger", corev1.Container{Name: "c", Image: ref}))
	if message := waits(t, ns, "stranger", "ErrImagePull"); !strings.Contains(message, ref) || !strings.Contains(message, "authorization failed: no credentials") {
		t.Errorf("message %q", message)
	}
	if message := waits(t, ns, "stranger", "ImagePullBackOff"); !strings.Contains(message, ref) {
		t.Errorf("message %q", message)
	}
	auth := base64.StdEncoding.EncodeToString([]byte("jane:open"))
	_, err = shared.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "key"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, private.Addr(), auth)},
	}, metav1.CreateOptions{})
	must(t, err)
	p := pod("guest", corev1.Container{Name: "c", Image: ref})
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "key"}}
	shared.Create(t, ns, p)
	shared.AwaitPhase(t, ns, "guest", corev1.PodSucceeded)
	if got := logsOf(t, ns, "guest", "c"); got != "let in\n" {
		t.Errorf("got %q", got)
	}
}

// TestImagePullErrors: the status says what is wrong with which image.
func TestImagePullErrors(t *testing.T) {
	t.Parallel()
	shared.ExpectKubeletError("e2e/(none|busybox:none)|127.0.0.1:1/|no/registry")
	ns := shared.Namespace(t)
	missing := strings.TrimSuffix(shared.Images.Busybox, ":1") + ":none"
	for name, c := range map[string]struct {
		image  string
		policy corev1.PullPolicy
		reason string
		want   []string
	}{
		"no-tag":      {missing, corev1.PullAlways, "ErrImagePull", []string{missing, "not found"}},
		"no-registry": {"127.0.0.1:1/no/registry:1", corev1.PullIfNotPresent, "RegistryUnavailable", []string{"127.0.0.1:1/no/registry:1", "connection refused"}},
		"no-name":     {"Not A Name", corev1.PullIfNotPresent, "InvalidImageName", []string{"Not A Name"}},
		"never":       {missing, corev1.PullNever, "ErrImageNeverPull", []string{missing}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared.Create(t, ns, pod(name, corev1.Container{Name: "c", Image: c.image, ImagePullPolicy: c.policy}))
			message := waits(t, ns, name, c.reason)
			for _, want := range c.want {
				if !strings.Contains(message, want) {
					t.Errorf("%q is not in %q", want, message)
				}
			}
			if c.policy == corev1.PullAlways {
				waits(t, ns, name, "ImagePullBackOff")
			}
		})
	}
}

// TestImageByDigest: the status names the digest that the pod asked for.
func TestImageByDigest(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := startPod(t, ns, pod("by-tag", shell("c", idle)))
	id := suite.Status(p, "c").ImageID
	name, digest, ok := strings.Cut(id, "@")
	if !ok || !strings.HasPrefix(digest, "sha256:") {
		t.Fatalf("image id %q", id)
	}
	c := shell("c", idle)
	c.Image = name + "@" + digest
	if p := startPod(t, ns, pod("by-digest", c)); suite.Status(p, "c").ImageID != id || suite.Status(p, "c").Image == "" {
		t.Errorf("status %+v", suite.Status(p, "c"))
	}
}

// TestLogRotation: kubelet keeps few files of a bounded size, and who follows the
// log misses no line.
func TestLogRotation(t *testing.T) {
	must(t, shared.Worker.Reconfigure(t.Context(), func(c *kubeletconfig.KubeletConfiguration) {
		files := int32(3)
		c.ContainerLogMaxSize, c.ContainerLogMaxFiles = "20Ki", &files
		c.ContainerLogMonitorInterval = &metav1.Duration{Duration: 3e9}
	}))
	t.Cleanup(func() { must(t, shared.Worker.Reconfigure(context.WithoutCancel(t.Context()), nil)) })
	ns := shared.Namespace(t)
	p := withShared(pod("talks", corev1.Container{
		Name: "c", Image: shared.Images.Busybox, Command: []string{"sh", "-c", "while [ ! -e /shared/begin ]; do sleep 0.1; done; exec probe log -lines 0 -rate 100 -until /shared/enough"},
	}, shell("other", idle)))
	made := startPod(t, ns, p)
	var out bytes.Buffer
	follow := shared.Kubectl.Command(t.Context(), "logs", "-f", "-n", ns, "talks", "-c", "c")
	follow.Stdout = &out
	must(t, follow.Start())
	shared.Do(t, "exec", "-n", ns, "talks", "-c", "other", "--", "touch", "/shared/begin")
	dir := filepath.Join(shared.Dir, shared.Worker.Name(), "podlogs", fmt.Sprintf("%s_talks_%s", ns, made.UID), "c")
	suite.Await(t, 2*suite.Limit, "the log is rotated more than once", func(context.Context) (bool, error) {
		compressed, err := filepath.Glob(filepath.Join(dir, "*.gz"))
		all, _ := filepath.Glob(filepath.Join(dir, "*"))
		if len(all) > 4 {
			err = fmt.Errorf("there are %d files: %q", len(all), all)
		}
		return len(compressed) > 0, err
	})
	shared.Do(t, "exec", "-n", ns, "talks", "-c", "other", "--", "touch", "/shared/enough")
	must(t, follow.Wait())
	next := 1
	for line := range strings.Lines(out.String()) {
		if want := fmt.Sprintf("out %08d\n", next); line != want {
			t.Fatalf("line %q, want %q", line, want)
		}
		next++
	}
	if next < 500 {
		t.Errorf("only %d lines", next)
	}
	// What the API server is asked for begins where the files that are left do.
	if tail := shared.Do(t, "logs", "-n", ns, "talks", "-c", "c", "--tail=1"); tail != fmt.Sprintf("out %08d\n", next-1) {
		t.Errorf("the last line is %q, want %d", tail, next-1)
	}
}
