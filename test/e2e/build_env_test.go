package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// builds is a person who builds images at a node.
type builds struct {
	*env
	// dir is the build context.
	dir string
}

// onBuilds uses the shared node.
func onBuilds(t *testing.T) *builds {
	t.Helper()
	b := &builds{env: onShared(t)}
	b.dir = b.temp()
	return b
}

// temp is a directory the name of which is not that of the test, which may have
// anything in it.
func (b *builds) temp() string {
	b.Helper()
	dir, err := os.MkdirTemp("", "build")
	b.must(err)
	b.Cleanup(func() { b.must(os.RemoveAll(dir)) })
	return dir
}

// write makes files of the context. A name that ends in / is a directory.
func (b *builds) write(files map[string]string) {
	b.Helper()
	for name, text := range files {
		path := filepath.Join(b.dir, name)
		if strings.HasSuffix(name, "/") {
			b.must(os.MkdirAll(path, 0o755))
			continue
		}
		b.must(os.MkdirAll(filepath.Dir(path), 0o755))
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			b.must(os.Symlink(target, path))
			continue
		}
		b.must(os.WriteFile(path, []byte(text), 0o644))
	}
}

// dockerfile writes the definition; BASE in it is the busybox image.
func (b *builds) dockerfile(text string) {
	b.Helper()
	b.write(map[string]string{"Dockerfile": strings.ReplaceAll(text, "BASE", shared.image)})
}

// command is cri-node with the node's address.
func (b *builds) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(b.Context(), shared.bin.Node, args...)
	c.Env = append(os.Environ(), "CRI_NODE_ADDRESS="+b.node.Endpoint())
	return c
}

// build builds the context and returns what was printed.
func (b *builds) build(args ...string) (out string, err error) {
	b.Helper()
	c := b.command(append(append([]string{"build", "--progress", "plain"}, args...), b.dir)...)
	var all bytes.Buffer
	c.Stdout, c.Stderr = &all, &all
	err = c.Run()
	return all.String(), err
}

// built is build that must go well.
func (b *builds) built(args ...string) string {
	b.Helper()
	out, err := b.build(args...)
	if err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	return out
}

// files builds and returns what the files below a directory of the result are:
// text, or "-> target", by their names; directories end in /.
func (b *builds) files(below string, args ...string) map[string]string {
	b.Helper()
	to := b.temp()
	b.built(append(args, "-o", to)...)
	found := map[string]string{}
	root := filepath.Join(to, below)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			found[name+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			found[name] = "-> " + target
			return err
		default:
			text, err := os.ReadFile(path)
			found[name] = string(text)
			return err
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.Fatal(err)
	}
	return found
}

// config builds and returns the config of the image.
func (b *builds) config(args ...string) dockerspec.DockerOCIImage {
	b.Helper()
	archive := filepath.Join(b.temp(), "image.tar")
	b.built(append(args, "-t", "e2e.test/config:1", "-o", "type=docker,dest="+archive)...)
	defer b.forget("e2e.test/config:1")
	var img dockerspec.DockerOCIImage
	var manifest []struct{ Config string }
	b.must(json.Unmarshal(b.entry(archive, "manifest.json"), &manifest))
	b.must(json.Unmarshal(b.entry(archive, manifest[0].Config), &img))
	return img
}

// entry is the content of a file in a tar.
func (b *builds) entry(archive, name string) []byte {
	b.Helper()
	f, err := os.Open(archive)
	b.must(err)
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err != nil {
			b.Fatalf("%s in %s: %v", name, archive, err)
		}
		if h.Name == name {
			data, err := io.ReadAll(r)
			b.must(err)
			return data
		}
	}
}

// forget removes an image.
func (b *builds) forget(ref string) {
	b.Helper()
	b.must(b.node.Images.RemoveImage(b.Context(), &runtimeapi.ImageSpec{Image: ref}))
}

// prune removes what builds have cached.
func (b *builds) prune() {
	b.Helper()
	out, err := b.command("builder", "prune", "--all", "--force").CombinedOutput()
	if err != nil {
		b.Fatalf("prune: %v\n%s", err, out)
	}
}

// cachedSteps counts the steps that were found in the cache.
func cachedSteps(out string) int { return strings.Count(out, " CACHED\n") }

// fails builds and wants a failure that says something.
func (b *builds) fails(want string, args ...string) {
	b.Helper()
	begin := time.Now()
	out, err := b.build(args...)
	if err == nil {
		b.Fatalf("the build went well, want %q:\n%s", want, out)
	}
	if !strings.Contains(out, want) {
		b.Errorf("the build said, after %v:\n%s\nwant %q", time.Since(begin), out, want)
	}
}

var errNotYet = errors.New("not yet")

// safeBuffer is a bytes.Buffer for two goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// removeBuilt removes all images without a name.
func (b *builds) removeBuilt() {
	b.Helper()
	images, err := b.node.Images.ListImages(b.Context(), nil)
	b.must(err)
	for _, i := range images {
		if len(i.RepoTags) == 0 && len(i.RepoDigests) == 0 {
			b.forget(i.Id)
		}
	}
}
