package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// sources makes a ConfigMap and a Secret, both called "it".
func sources(t *testing.T, ns string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "it"}
	_, err := shared.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"color": "blue", "size": "9"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = shared.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"word": "sesame"}}, metav1.CreateOptions{})
	must(t, err)
}

func configMap() *corev1.ConfigMapVolumeSource {
	return &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "it"}}
}

// TestVolumesOfTheAPI: ConfigMap, Secret, downward API, projected, and the same in
// the environment.
func TestVolumesOfTheAPI(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	sources(t, ns)
	c := shell("c", `cat /config/color /secret/word /downward/name /all/renamed /all/word; stat -c %a /secret/..data/word; echo; echo $COLOR $WORD $NAME $CPU
[ $(wc -c < /all/token) -gt 100 ] && echo token; touch /config/x 2>&1 | grep -o 'Read-only.*'; true`)
	it := corev1.LocalObjectReference{Name: "it"}
	c.Env = []corev1.EnvVar{
		{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: it, Key: "color"}}},
		{Name: "WORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: it, Key: "word"}}},
		{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.cpu", Divisor: resource.MustParse("1m")}}},
	}
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("7m")}
	p := pod("volumes", c)
	mount(p, "/config", corev1.VolumeSource{ConfigMap: configMap()})
	mount(p, "/secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "it", DefaultMode: pointer(int32(0o400))}})
	mount(p, "/downward", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
		{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
	}}})
	mount(p, "/all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: it, Items: []corev1.KeyToPath{{Key: "size", Path: "renamed"}}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: it}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
	}}})
	shared.Create(t, ns, p)
	shared.AwaitPod(t, ns, p.Name, "over", over)
	want := "bluesesamevolumes9sesame400\n\nblue sesame volumes 7\ntoken\nRead-only file system\n"
	if got := logsOf(t, ns, p.Name, "c"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfigMapChanges: what is mounted follows, what is mounted by subPath does not.
func TestConfigMapChanges(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	sources(t, ns)
	p := pod("follows", shell("c", idle))
	mount(p, "/config", corev1.VolumeSource{ConfigMap: configMap()})
	mounts := &p.Spec.Containers[0].VolumeMounts
	*mounts = append(*mounts, corev1.VolumeMount{Name: (*mounts)[0].Name, MountPath: "/etc/color", SubPath: "color"})
	startPod(t, ns, p)
	now, err := shared.Client.CoreV1().ConfigMaps(ns).Get(t.Context(), "it", metav1.GetOptions{})
	must(t, err)
	now.Data["color"] = "red"
	_, err = shared.Client.CoreV1().ConfigMaps(ns).Update(t.Context(), now, metav1.UpdateOptions{})
	must(t, err)
	// kubelet looks when it looks at the pod anyhow, each minute, or when an
	// annotation of the pod changes.
	shared.Do(t, "annotate", "pod", "-n", ns, p.Name, "look=now")
	suite.Await(t, 2*suite.Limit, "the file follows", func(ctx context.Context) (bool, error) {
		out, err := shared.Kubectl.Run(ctx, "exec", "-n", ns, p.Name, "--", "cat", "/config/color", "/etc/color")
		return out == "redblue", err
	})
}

// TestEmptyDir: on disk and in memory, the latter with a limit, shared by the
// containers, gone with the pod.
func TestEmptyDir(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("empty",
		shell("writer", "echo one > /shared/a; echo two > /memory/a; stat -f -c %T /memory > /shared/type; df -k /memory | tail -1 | awk '{print $2}' > /shared/size; touch /shared/done; "+idle),
		shell("reader", "while [ ! -e /shared/done ]; do sleep 0.1; done; cat /shared/a /memory/a /shared/type /shared/size; stat -c %a /shared; "+idle))
	withShared(p)
	mount(p, "/memory", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: pointer(resource.MustParse("8Mi"))}})
	made := startPod(t, ns, p)
	suite.Await(t, suite.Limit, "the reader has read", func(ctx context.Context) (bool, error) {
		out, err := shared.Kubectl.Run(ctx, "logs", "-n", ns, p.Name, "-c", "reader")
		return out == "one\ntwo\ntmpfs\n8192\n777\n", err
	})
	dir := filepath.Join(shared.Dir, shared.Worker.Name(), "kubelet", "pods", string(made.UID))
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	shared.Delete(t, ns, p.Name)
	suite.Await(t, suite.Limit, "the pod's directory is gone", func(context.Context) (bool, error) {
		_, err := os.Stat(dir)
		return os.IsNotExist(err), nil
	})
}

// TestHostPathAndSubPath: a directory of the node, parts of it, by name and by
// expression, and read-only.
func TestHostPathAndSubPath(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	c := shell("c", `echo here > /shared/here; cat /part/file; echo mine > /expanded/mine; touch /readonly/x 2>&1 | grep -o 'Read-only.*'; true`)
	c.Env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	p := pod("host", c)
	dir := onHost(t, p)
	must(t, os.Mkdir(filepath.Join(dir, "part"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "part", "file"), []byte("part\n"), 0o644))
	mounts := &p.Spec.Containers[0].VolumeMounts
	volume := (*mounts)[0].Name
	*mounts = append(*mounts,
		corev1.VolumeMount{Name: volume, MountPath: "/part", SubPath: "part"},
		corev1.VolumeMount{Name: volume, MountPath: "/expanded", SubPathExpr: "of/$(POD)"},
		corev1.VolumeMount{Name: volume, MountPath: "/readonly", ReadOnly: true})
	shared.Create(t, ns, p)
	shared.AwaitPhase(t, ns, p.Name, corev1.PodSucceeded)
	if got := logsOf(t, ns, p.Name, "c"); got != "part\nRead-only file system\n" {
		t.Errorf("got %q", got)
	}
	for name, want := range map[string]string{"here": "here\n", "of/host/mine": "mine\n"} {
		if got := readFile(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s has %q", name, got)
		}
	}
}

// TestSubPathLinkOut: a link in a volume that leads out of it is no way to the node.
func TestSubPathLinkOut(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("out", shell("c", "cat /part/passwd"))
	dir := onHost(t, p)
	must(t, os.Symlink("/etc", filepath.Join(dir, "etc")))
	mounts := &p.Spec.Containers[0].VolumeMounts
	*mounts = append(*mounts, corev1.VolumeMount{Name: (*mounts)[0].Name, MountPath: "/part", SubPath: "etc"})
	shared.Create(t, ns, p)
	shared.AwaitPod(t, ns, p.Name, "refused", func(p *corev1.Pod) bool {
		waiting := suite.Status(p, "c").State.Waiting
		return waiting != nil && waiting.Reason == "CreateContainerConfigError"
	})
}

// TestMountPropagation: a mount made in a privileged container reaches the node
// and a container that takes it over, and no other.
func TestMountPropagation(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	both, to, none := corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone
	sees := "while [ ! -e /shared/mounted ]; do sleep 0.1; done; cat /shared/inner/file 2>/dev/null || echo nothing; " + idle
	p := pod("propagation",
		shell("master", "while [ ! -e /shared/go ]; do sleep 0.1; done; mkdir -p /shared/inner && mount -t tmpfs inner /shared/inner && echo inside > /shared/inner/file && touch /shared/mounted; trap 'umount /shared/inner; exit 0' TERM; while :; do sleep 0.1; done"),
		shell("slave", sees), shell("private", sees))
	p.Spec.TerminationGracePeriodSeconds = pointer(int64(20))
	dir := onHost(t, p)
	for i, propagation := range []*corev1.MountPropagationMode{&both, &to, &none} {
		p.Spec.Containers[i].VolumeMounts[0].MountPropagation = propagation
	}
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: pointer(true)}
	startPod(t, ns, p)
	// What is mounted before a container starts is there for it in any case.
	must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	for name, want := range map[string]string{"slave": "inside\n", "private": "nothing\n"} {
		suite.Await(t, suite.Limit, name+" sees what it may", func(ctx context.Context) (bool, error) {
			out, err := shared.Kubectl.Run(ctx, "logs", "-n", ns, p.Name, "-c", name)
			return out == want, err
		})
	}
	if got := readFile(t, filepath.Join(dir, "inner", "file")); got != "inside\n" {
		t.Errorf("the node sees %q", got)
	}
	shared.Delete(t, ns, p.Name)
	if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, dir) {
		t.Error("the mount is still there")
	}
}

// TestImageVolume: an image as a read-only directory, and a part of one.
func TestImageVolume(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("image", shell("c", "ls /image/agnhost; touch /image/x 2>&1 | grep -o 'Read-only.*'; ls /part/probe; "+idle))
	mount(p, "/image", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: shared.Images.Agnhost, PullPolicy: corev1.PullIfNotPresent}})
	mounts := &p.Spec.Containers[0].VolumeMounts
	*mounts = append(*mounts, corev1.VolumeMount{Name: (*mounts)[0].Name, MountPath: "/part", SubPath: "bin"})
	startPod(t, ns, p)
	suite.Await(t, suite.Limit, "the image is there", func(ctx context.Context) (bool, error) {
		out, err := shared.Kubectl.Run(ctx, "logs", "-n", ns, p.Name)
		return out == "/image/agnhost\nRead-only file system\n/part/probe\n", err
	})
}
