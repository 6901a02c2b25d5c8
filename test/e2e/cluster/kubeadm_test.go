package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/image"
)

// TestKubeadm: what kubeadm asks a runtime for before it makes a node: whether it
// is there and tells its cgroup driver, and the images of the control plane.
func TestKubeadm(t *testing.T) {
	t.Parallel()
	programs := shared.Prepared.Programs
	config := filepath.Join(t.TempDir(), "kubeadm.yaml")
	must(t, os.WriteFile(config, []byte(`apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: 192.0.2.1
nodeRegistration:
  criSocket: `+shared.Worker.Node.Endpoint()+`
  name: localhost
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: `+programs.Version+`
imageRepository: `+shared.Registry.Ref("kubeadm")+`
`), 0o600))
	kubeadm := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), programs.Path(build.Kubeadm), append(args, "--config", config)...)
		// It looks for kubelet there.
		cmd.Env = append(os.Environ(), "PATH="+programs.Dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubeadm %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	var names []string
	for line := range strings.SplitSeq(kubeadm("config", "images", "list"), "\n") {
		if name, ours := strings.CutPrefix(line, shared.Registry.Ref("")); ours {
			img, err := image.Build(image.Spec{Layers: [][]image.File{{image.Text("name", name)}}, Config: v1.Config{Cmd: []string{"/none"}}})
			must(t, err)
			_, err = shared.Registry.Push(t.Context(), name, img)
			must(t, err)
			names = append(names, line)
		}
	}
	if len(names) < 6 {
		t.Fatalf("kubeadm wants %q only", names)
	}
	out := kubeadm("config", "images", "pull")
	for _, name := range names {
		if !strings.Contains(out, "[config/images] Pulled "+name) {
			t.Errorf("kubeadm has not pulled %s: %s", name, out)
		}
	}
	// Of a node that is one already much is wrong, but nothing of the runtime.
	out = kubeadm("init", "phase", "preflight", "--ignore-preflight-errors=all", "--v=1")
	for _, name := range names {
		if !strings.Contains(out, "image exists: "+name) {
			t.Errorf("kubeadm does not find %s: %s", name, out)
		}
	}
	for _, check := range []string{"CRI", "ContainerRuntimeVersion", "ImagePull"} {
		if strings.Contains(out, "[WARNING "+check+"]") {
			t.Errorf("kubeadm warns of %s: %s", check, out)
		}
	}
	for _, name := range names {
		out, err := exec.CommandContext(t.Context(), shared.Prepared.Binaries.Node, "--address", shared.Worker.Node.Endpoint(), "rmi", name).CombinedOutput()
		if err != nil {
			t.Errorf("remove %s: %v: %s", name, err, out)
		}
	}
}
