package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// imageVerbs is a person at a node's command line, with credentials of their own.
type imageVerbs struct {
	*env
	dir string
}

func onImageVerbs(t *testing.T) *imageVerbs {
	t.Helper()
	return &imageVerbs{onShared(t), t.TempDir()}
}

func (v *imageVerbs) path(name string) string { return filepath.Join(v.dir, name) }

// command is cri-node with the node's address.
func (v *imageVerbs) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, shared.bin.Node, args...)
	c.Env = append(os.Environ(), "CRI_NODE_ADDRESS="+v.node.Endpoint(), "DOCKER_CONFIG="+v.path("docker"))
	c.WaitDelay = 5 * time.Second
	return c
}

// try runs a verb and returns what it printed, errors last.
func (v *imageVerbs) try(stdin []byte, args ...string) (stdout, stderr string, code int) {
	v.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.Context()), time.Minute) // also when the test ends
	defer cancel()
	c := v.command(ctx, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		v.Fatalf("cri-node %q: %v", args, err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// ok runs a verb that must succeed.
func (v *imageVerbs) ok(args ...string) string {
	v.Helper()
	out, errs, code := v.try(nil, args...)
	if code != 0 {
		v.Fatalf("cri-node %q: exit code %d: %s", args, code, errs)
	}
	return out
}

// fails runs a verb that must fail and say all of want.
func (v *imageVerbs) fails(args []string, want ...string) {
	v.Helper()
	out, errs, code := v.try(nil, args...)
	if code == 0 {
		v.Errorf("cri-node %q succeeded: %s", args, out)
	}
	contains(v.env, "error", errs, want...)
}

// forget removes an image when the test ends, with all its names.
func (v *imageVerbs) forget(id string) {
	v.Cleanup(func() {
		c := v.command(context.WithoutCancel(v.Context()), "rmi", "-f", id)
		if out, err := c.CombinedOutput(); err != nil {
			v.Errorf("remove image: %v: %s", err, out)
		}
	})
}

// config is a part of what inspect prints of an image.
func (v *imageVerbs) inspect(ref string) (d struct {
	ID          string `json:"Id"`
	RepoTags    []string
	RepoDigests []string
	Config      struct {
		Cmd, Env []string
		Labels   map[string]string
	}
	RootFS struct{ Layers []string }
}) {
	v.Helper()
	v.must(json.Unmarshal([]byte(v.ok("inspect", "--type", "image", "-f", "json", ref)), &d))
	return d
}

// skopeo runs Debian's skopeo, which speaks to registries without TLS.
func (v *imageVerbs) skopeo(args ...string) string {
	v.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		lacking(v.T, "skopeo", "skopeo is not on this machine")
	}
	c := exec.CommandContext(v.Context(), path, append([]string{"--insecure-policy"}, args...)...)
	out, err := c.CombinedOutput()
	if err != nil {
		v.Fatalf("skopeo %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// app is an image of three layers, in the forms that registries have.
func (v *imageVerbs) app(text string) v1.Image {
	v.Helper()
	var img v1.Image
	for i, form := range []image.Form{{}, {Compression: "zstd"}, {Compression: "plain"}} {
		next, err := image.Build(image.Spec{Form: form, Layers: [][]image.File{
			append([]image.File{image.Dir("app"), image.Text("app/"+string(rune('a'+i)), text)}, shared.busybox...),
		}, Config: v1.Config{Cmd: []string{"cat", "/app/a"}, Env: []string{"A=1"}, Labels: map[string]string{"app": text}}})
		v.must(err)
		if img == nil {
			img = next
			continue
		}
		layers, err := next.Layers()
		v.must(err)
		img, err = appendLayers(img, layers...)
		v.must(err)
	}
	return img
}

// otherRegistry is a registry that ends with the test.
func (v *imageVerbs) otherRegistry() *registry.Registry {
	v.Helper()
	r, err := registry.Start()
	v.must(err)
	v.Cleanup(func() { _ = r.Close() }) // some tests have
	return r
}

// pushed puts an image into a registry and returns its digest there.
func (v *imageVerbs) pushed(r *registry.Registry, repoTag string, img v1.Image) string {
	v.Helper()
	h, err := r.Push(v.Context(), repoTag, img)
	v.must(err)
	return h.String()
}

// digestIn asks skopeo for the digest of an image in a registry.
func (v *imageVerbs) digestIn(ref string) string {
	v.Helper()
	return v.skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+ref)
}
