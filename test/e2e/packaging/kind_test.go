package packaging

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
	kindexec "sigs.k8s.io/kind/pkg/exec"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

type daemon = node.Node

// kindNode is a node as kind sees it: something that runs commands. Those of
// packaging/kind are the first it finds.
type kindNode struct {
	nodes.Node // for what kind does not call here
	*daemon
	t    *testing.T
	path string
	ran  *[]string
}

// onKind starts a node.
func onKind(t *testing.T) *kindNode {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	klog.SetOutput(io.Discard)
	dir := t.TempDir()
	must(t, os.Symlink(shared.Node, filepath.Join(dir, "cri-node")))
	n, err := node.Start(t.Context(), node.Options{Binaries: shared, Number: 9})
	must(t, err)
	before, err := invariant.Collect(n.InvariantConfig())
	must(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			t.Logf("daemon's log:\n%s", n.LogTail(30))
		}
		left, err := invariant.Settle(10*time.Second, func() ([]string, error) {
			now, err := invariant.Collect(n.InvariantConfig())
			return invariant.Residue(before, now), err
		})
		if len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		must(t, errors.Join(err, n.Close(ctx), n.Purge(ctx)))
	})
	return &kindNode{daemon: n, t: t, path: filepath.Join(folder(t), "kind") + ":" + dir + ":" + os.Getenv("PATH"), ran: new([]string)}
}

// Command is what kind calls to run something in the node.
func (k *kindNode) Command(name string, args ...string) kindexec.Cmd {
	return k.CommandContext(k.t.Context(), name, args...)
}

// CommandContext is the same with an end.
func (k *kindNode) CommandContext(ctx context.Context, name string, args ...string) kindexec.Cmd {
	*k.ran = append(*k.ran, strings.Join(append([]string{name}, args...), " "))
	for _, dir := range filepath.SplitList(k.path) {
		if filepath.IsAbs(name) {
			break
		}
		if path := filepath.Join(dir, name); exec.Command(path).Err == nil {
			name = path
			break
		}
	}
	c := (&kindexec.LocalCmder{}).CommandContext(ctx, name, args...)
	return c.SetEnv("PATH="+k.path, "CRI_NODE_ADDRESS="+k.Endpoint())
}

// app is an image of its own.
func app(t *testing.T, text, arch string) v1.Image {
	t.Helper()
	img, err := image.Build(image.Spec{Layers: [][]image.File{
		{image.Text("app", text)}, {image.Text("second", text)},
	}, Config: v1.Config{Cmd: []string{"/app"}}, Architecture: arch})
	must(t, err)
	return img
}

// visible checks that kubelet finds an image by a name and by its id.
func (k *kindNode) visible(img v1.Image, names ...string) {
	k.t.Helper()
	for _, n := range append([]string{id(k.t, img)}, names...) {
		r, err := k.Images.ImageStatus(k.t.Context(), &runtimeapi.ImageSpec{Image: n}, false)
		must(k.t, err)
		got := r.GetImage()
		if got == nil {
			k.t.Errorf("no image %s", n)
			continue
		}
		// kind compares the id with docker's.
		if got.Id != id(k.t, img) {
			k.t.Errorf("%s has id %s, want %s", n, got.Id, id(k.t, img))
		}
		for _, want := range names {
			if !slices.Contains(got.RepoTags, want) {
				k.t.Errorf("%s has names %q, want %s", n, got.RepoTags, want)
			}
		}
	}
}

// TestKindLoad loads what `kind load docker-image` and `kind load image-archive`
// send, with kind's own code.
func TestKindLoad(t *testing.T) {
	k := onKind(t)
	foreign := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if foreign == "" {
		foreign = "amd64"
	}
	docker, index, old, one, two := app(t, "docker", ""), app(t, "index", ""), app(t, "old", ""), app(t, "one", ""), app(t, "two", "")
	tests := map[string]struct {
		archive []byte
		images  map[string]v1.Image
	}{
		"docker save": {
			dockerSave(t, docker, "docker.io/library/kind-docker:1", "registry.example.com/team/app:v2"),
			map[string]v1.Image{"docker.io/library/kind-docker:1": docker, "registry.example.com/team/app:v2": docker},
		},
		"docker save with images in containerd": {
			dockerSaveIndex(t, index, app(t, "index", foreign), runtime.GOARCH, foreign, "docker.io/library/kind-index:1"),
			map[string]v1.Image{"docker.io/library/kind-index:1": index},
		},
		"docker save of older versions, podman save": {
			oldDockerSave(t, map[string]v1.Image{"kind-old:1": old, "localhost/kind-one:1": one}),
			map[string]v1.Image{"docker.io/library/kind-old:1": old, "localhost/kind-one:1": one},
		},
		"OCI layout": {
			ociLayout(t, map[string]v1.Image{"registry.k8s.io/kind-one:2": one, "registry.k8s.io/kind-two:2": two}),
			map[string]v1.Image{"registry.k8s.io/kind-one:2": one, "registry.k8s.io/kind-two:2": two},
		},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			k.t = t
			for range 2 { // again, as kind does it for an image that has changed
				must(t, nodeutils.LoadImageArchive(k, strings.NewReader(string(test.archive))))
				for name, img := range test.images {
					k.visible(img, name)
				}
			}
		})
	}
	k.t = t
	// kind tags an image anew that the node has under another name.
	must(t, nodeutils.ReTagImage(k, id(t, two), "docker.io/library/kind-again:1"))
	k.visible(two, "docker.io/library/kind-again:1", "registry.k8s.io/kind-two:2")
	// A name moves to the image that is loaded under it.
	must(t, nodeutils.LoadImageArchive(k, strings.NewReader(string(dockerSave(t, one, "docker.io/library/kind-docker:1")))))
	k.visible(one, "docker.io/library/kind-docker:1")
	k.visible(docker, "registry.example.com/team/app:v2")
	if err := nodeutils.LoadImageArchive(k, strings.NewReader("no archive")); err == nil {
		t.Error("loaded what is no archive")
	}
	for _, want := range []string{
		"containerd config dump",
		"ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -",
		"ctr --namespace=k8s.io images tag --force " + id(t, two) + " docker.io/library/kind-again:1",
	} {
		if !slices.Contains(*k.ran, want) {
			t.Errorf("kind has not run %q, but %q", want, *k.ran)
		}
	}
}

// TestKindRuns starts a pod with an image that kind has loaded.
func TestKindRuns(t *testing.T) {
	k := onKind(t)
	files, err := image.Busybox()
	must(t, err)
	img, err := image.Build(image.Spec{Layers: [][]image.File{files}, Config: v1.Config{Cmd: []string{"sh", "-c", "exit 7"}}})
	must(t, err)
	const name = "docker.io/library/kind-busybox:1"
	must(t, nodeutils.LoadImageArchive(k, strings.NewReader(string(dockerSave(t, img, name)))))
	ctx := t.Context()
	pod := k.Pod("kind").Config()
	sandbox, err := k.Runtime.RunPodSandbox(ctx, pod, "")
	must(t, err)
	defer func() {
		must(t, errors.Join(k.Runtime.StopPodSandbox(ctx, sandbox), k.Runtime.RemovePodSandbox(ctx, sandbox)))
	}()
	c, err := k.Runtime.CreateContainer(ctx, sandbox, kubelet.Container{Name: "main", Image: name}.Config(pod), pod)
	must(t, err)
	must(t, k.Runtime.StartContainer(ctx, c))
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(pace.Limit(30 * time.Second)); ; <-ticker.C {
		r, err := k.Runtime.ContainerStatus(ctx, c, false)
		must(t, err)
		if s := r.GetStatus(); s.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			if s.GetExitCode() != 7 {
				t.Errorf("exit code %d: %s", s.GetExitCode(), s.GetMessage())
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the container does not end")
		}
	}
}

// TestKindCommands are the other command lines in kind's code, v0.33.0, and what
// people type in a node.
func TestKindCommands(t *testing.T) {
	k := onKind(t)
	img := app(t, "commands", "")
	const name = "registry.k8s.io/kind-commands:1"
	run := func(stdin []byte, line string) (string, error) {
		var out strings.Builder
		words := strings.Fields(line)
		err := k.Command(words[0], words[1:]...).SetStdin(strings.NewReader(string(stdin))).SetStdout(&out).SetStderr(&out).Run()
		return out.String(), err
	}
	for _, test := range []struct {
		line  string
		stdin []byte
		want  string
	}{
		// pkg/build/nodeimage/imageimporter.go
		{"ctr info", nil, "cri-node"},
		{"ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests -", dockerSave(t, img, name), ""},
		{"ctr --namespace=k8s.io images tag --force " + name + " registry.k8s.io/kind-fixed:1", nil, "registry.k8s.io/kind-fixed:1"},
		{"ctr --namespace=k8s.io images list -q", nil, name + "\n"},
		{"ctr -n k8s.io i ls -q", nil, "registry.k8s.io/kind-fixed:1\n"},
		{"ctr -n k8s.io images rm " + name, nil, "Untagged: " + name},
		{"containerd --version", nil, "cri-node"},
	} {
		if out, err := run(test.stdin, test.line); err != nil || !strings.Contains(out, test.want) {
			t.Errorf("%s: %v: %q, want %q", test.line, err, out, test.want)
		}
	}
	for _, line := range []string{"ctr", "ctr images mount a b", "ctr images import", "ctr -n k8s.io containers ls", "ctr images import --unheard-of -", "containerd"} {
		if out, err := run(nil, line); err == nil || !strings.Contains(out, "this node runs cri-node") {
			t.Errorf("%s: %v: %q", line, err, out)
		}
	}
}

// TestLoadImages is a folder as air-gapped nodes have it.
func TestLoadImages(t *testing.T) {
	k := onKind(t)
	dir := t.TempDir()
	one, two := app(t, "folder one", ""), app(t, "folder two", "")
	write := func(name string, b []byte) { must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600)) }
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write(dockerSave(t, two, "registry.k8s.io/folder-two:1"))
	must(t, errors.Join(err, w.Close()))
	load := func(dir string) error {
		return k.Command(filepath.Join(folder(t), "load-images.sh"), dir).Run()
	}
	must(t, load(filepath.Join(dir, "missing")))
	write("two.tar.gz", zipped.Bytes())
	write("one.tar", dockerSave(t, one, "registry.k8s.io/folder-one:1"))
	write("k3s-images.txt", []byte("registry.k8s.io/folder-three:1\n"))
	must(t, load(dir))
	k.visible(one, "registry.k8s.io/folder-one:1")
	k.visible(two, "registry.k8s.io/folder-two:1")
	// One that is broken does not keep the others.
	must(t, k.Images.RemoveImage(t.Context(), &runtimeapi.ImageSpec{Image: id(t, two)}))
	write("broken.tar", []byte("no tar"))
	if err := load(dir); err == nil {
		t.Error("a broken archive was not told of")
	}
	k.visible(two, "registry.k8s.io/folder-two:1")
}
