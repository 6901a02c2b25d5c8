package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// cleanup is a context for what must happen after a test's own has ended.
func cleanup(t *testing.T) context.Context { return context.WithoutCancel(t.Context()) }

// big is an image whose one large layer does not compress.
func (e *env) big(repoTag string, size int) string {
	e.Helper()
	noise := make([]byte, size)
	_, _ = rand.Read(noise) // never fails
	ref, _ := e.push(repoTag, image.Spec{Layers: [][]image.File{{{Name: "noise", Mode: 0o644, Data: noise}}}})
	return ref
}

func TestPullAuth(t *testing.T) {
	e := onShared(t)
	r, err := registry.Start()
	e.must(err)
	t.Cleanup(func() { _ = r.Close() })
	img, err := image.Build(image.Spec{Layers: [][]image.File{{image.Text("f", "private")}}})
	e.must(err)
	_, err = r.Push(t.Context(), "private/a:1", img)
	e.must(err)
	basic := registry.Auth{Username: "bob", Password: "hunter2-e2e"}
	bearer := registry.Auth{Username: "bob", Password: "hunter2-e2e", Bearer: true, Token: "tok-e2e", RefreshToken: "ref-e2e"}
	both := base64.StdEncoding.EncodeToString([]byte("bob:hunter2-e2e"))
	e.node.Watch.Secrets("hunter2-e2e", "tok-e2e", "ref-e2e", both)
	for _, tc := range []struct {
		name     string
		server   registry.Auth
		auth     *runtimeapi.AuthConfig
		file     string // the docker-style credentials file
		accepted bool
	}{
		{"basic without credentials", basic, nil, "", false},
		{"basic wrong password", basic, &runtimeapi.AuthConfig{Username: "bob", Password: "wrong"}, "", false},
		{"basic username", basic, &runtimeapi.AuthConfig{Username: "bob", Password: "hunter2-e2e"}, "", true},
		{"basic auth", basic, &runtimeapi.AuthConfig{Auth: both}, "", true},
		{"basic server address", basic, &runtimeapi.AuthConfig{Auth: both, ServerAddress: "http://" + r.Addr()}, "", true},
		{"other server address", basic, &runtimeapi.AuthConfig{Auth: both, ServerAddress: "https://other.example"}, "", false},
		{"basic file", basic, nil, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.Addr(), both), true},
		{"bearer without credentials", bearer, nil, "", false},
		{"bearer username", bearer, &runtimeapi.AuthConfig{Username: "bob", Password: "hunter2-e2e"}, "", true},
		{"bearer identity token", bearer, &runtimeapi.AuthConfig{IdentityToken: "ref-e2e"}, "", true},
		{"bearer registry token", bearer, &runtimeapi.AuthConfig{RegistryToken: "tok-e2e"}, "", true},
		{"bearer wrong registry token", bearer, &runtimeapi.AuthConfig{RegistryToken: "nonsense"}, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := e.in(t)
			r.Require(tc.server)
			if tc.file != "" {
				e.must(os.WriteFile(e.node.AuthFile, []byte(tc.file), 0o600))
				t.Cleanup(func() { _ = os.Remove(e.node.AuthFile) })
			}
			id, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: r.Ref("private/a:1")}, tc.auth, nil)
			if (err == nil) != tc.accepted {
				t.Fatalf("pull: %v", err)
			}
			if err == nil {
				e.removeImage(id)
			}
		})
	}
}

// TestPullHosts pulls through the mirror hosts.toml names.
func TestPullHosts(t *testing.T) {
	e := onShared(t)
	e.push("mirrored/a:1", image.Spec{Layers: [][]image.File{{image.Text("f", "mirrored")}}})
	dir := filepath.Join(e.node.CertsDir, "registry.e2e.test")
	e.must(os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	hosts := fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", shared.registry.Addr())
	e.must(os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644))
	img := e.image(e.pull("registry.e2e.test/mirrored/a:1"))
	sameSet(e, "tags", img.RepoTags, "registry.e2e.test/mirrored/a:1")
}

// TestPullFailures are refused for the right reason and leave nothing.
func TestPullFailures(t *testing.T) {
	e := onShared(t)
	before, err := e.node.Images.ListImages(t.Context(), nil)
	e.must(err)
	for _, tc := range []struct{ name, ref, want string }{
		{"no such tag", shared.registry.Ref("e2e/busybox:none"), "none"},
		{"no such digest", shared.registry.Ref("e2e/busybox") + "@sha256:" + strings.Repeat("0", 64), ""},
		{"refused connection", "127.0.0.1:1/a/b:1", "RegistryUnavailable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: tc.ref}, nil, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("pull gives %v, want %q in it", err, tc.want)
			}
		})
	}
	t.Run("deadline", func(t *testing.T) {
		e := e.in(t)
		ref := e.big("failures/deadline:1", 1<<20)
		reached := shared.registry.StallBlobs(1000)
		defer shared.registry.Release()
		offset := e.node.LogSize()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := e.node.RawImages.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		equal(e, "code", grpcstatus.Code(err), codes.DeadlineExceeded)
		if got := e.image(ref); got != nil {
			t.Errorf("a half image is there: %v", got)
		}
		select {
		case <-reached: // else the machine was too slow to come to the layer
			e.logSays(offset, `in layers for \S+; layer sha256:[0-9a-f]{64} wait for others \S+, in download for \S+, 1000 of \d+ bytes\)`)
		default:
		}
	})
	after, err := e.node.Images.ListImages(t.Context(), nil)
	e.must(err)
	equal(e, "number of images", len(after), len(before))
}

// TestPullShared lets many pulls share one download.
func TestPullShared(t *testing.T) {
	e := onShared(t)
	ref := e.big("shared/a:1", 2<<20)
	shared.registry.ForgetRequests()
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			id, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: ref}, nil, nil)
			if err != nil {
				t.Errorf("pull: %v", err)
			}
			ids[i] = id
		})
	}
	group.Wait()
	t.Cleanup(func() { e.removeImage(ref) })
	for _, id := range ids {
		equal(e, "id", id, ids[0])
	}
	// Two layers and a configuration.
	if all, _ := shared.registry.BlobRequests(); all > 3 {
		t.Errorf("%d requests for 3 blobs", all)
	}
}

// TestPullResume goes on where a reset connection ended.
func TestPullResume(t *testing.T) {
	e := onShared(t)
	ref := e.big("resume/a:1", 4<<20)
	shared.registry.ForgetRequests()
	shared.registry.ResetBlobs(1<<20, 2)
	defer shared.registry.Release()
	e.pull(ref)
	if all, ranged := shared.registry.BlobRequests(); ranged == 0 {
		t.Errorf("none of %d requests for blobs asked for a range", all)
	}
}

// TestPullCutOffByKill resumes, and shows no half image.
func TestPullCutOffByKill(t *testing.T) {
	e := ownNode(t, node.Options{Number: 7})
	ref := e.big("crash/pull:1", 4<<20)
	reached := shared.registry.StallBlobs(3 << 20)
	defer shared.registry.Release()
	done := make(chan error, 1)
	go func() { done <- e.node.Pull(t.Context(), ref) }()
	select {
	case <-reached:
	case err := <-done:
		t.Fatalf("pull ended before the stall: %v", err)
	}
	e.eventually(10*time.Second, func() error { return e.downloaded(1 << 20) })
	e.must(e.node.Kill())
	<-done
	shared.registry.Release()
	e.must(e.node.Restart(t.Context()))
	if got := e.image(ref); got != nil {
		t.Errorf("a half image is there: %v", got)
	}
	shared.registry.ForgetRequests()
	e.must(e.node.Pull(t.Context(), ref))
	if all, ranged := shared.registry.BlobRequests(); ranged == 0 {
		t.Errorf("none of %d requests for blobs asked for a range", all)
	}
	if e.image(ref) == nil {
		t.Error("no image after the second pull")
	}
	e.removeImage(ref)
}

// downloaded says whether a partial download of that size is on the disk.
func (e *env) downloaded(size int64) error {
	var most int64
	err := walkFiles(e.node.Root, func(path string, info os.FileInfo) {
		if !strings.Contains(path, "rootfs") && info.ModTime().After(time.Now().Add(-pace.Limit(30*time.Second))) {
			most = max(most, info.Size())
		}
	})
	if err == nil && most < size {
		err = fmt.Errorf("%d bytes are on the disk", most)
	}
	return err
}
