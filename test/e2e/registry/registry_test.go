package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func start(t *testing.T) *registry.Registry {
	t.Helper()
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func push(t *testing.T, r *registry.Registry, form image.Form) v1.Image {
	t.Helper()
	img, err := image.Build(image.Spec{Form: form, Layers: [][]image.File{
		{image.Dir("d"), image.Text("d/a", strings.Repeat("one\n", 1000))},
		{image.Text("d/.wh.a", "")},
	}, Config: v1.Config{Cmd: []string{"/bin/sh"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil && form.Compression == "" {
		t.Fatalf("image of form %+v is not valid: %v", form, err)
	}
	if _, err := r.Push(t.Context(), "test/img:1", img); err != nil {
		t.Fatal(err)
	}
	return img
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func blobURL(t *testing.T, r *registry.Registry, img v1.Image, i int) (string, int64) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[i].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[i].Size()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("http://%s/v2/test/img/blobs/%s", r.Addr(), d), size
}

func TestForms(t *testing.T) {
	for _, form := range []image.Form{
		{}, {Compression: "zstd"}, {Compression: "plain"}, {Docker: true}, {Docker: true, Compression: "plain"},
	} {
		t.Run(fmt.Sprintf("%+v", form), func(t *testing.T) {
			r := start(t)
			img := push(t, r, form)
			url, size := blobURL(t, r, img, 0)
			_, body, err := get(t, url)
			if err != nil || int64(len(body)) != size {
				t.Fatalf("blob has %d bytes, want %d: %v", len(body), size, err)
			}
			sum := sha256.Sum256(body)
			if !strings.HasSuffix(url, hex.EncodeToString(sum[:])) {
				t.Fatalf("blob does not hash to its name")
			}
		})
	}
}

func TestAuth(t *testing.T) {
	r := start(t)
	push(t, r, image.Form{})
	url := "http://" + r.Addr() + "/v2/test/img/manifests/1"
	r.Require(registry.Auth{Username: "u", Password: "p", Bearer: true, Token: "tok", RefreshToken: "ref"})
	resp, _, err := get(t, url)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer realm=") {
		t.Fatalf("no challenge: %v %v", resp, err)
	}
	resp, _, err = get(t, url, "Authorization", "Bearer tok", "Accept", "*/*")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("token refused: %v %v", resp, err)
	}
	post, err := http.PostForm("http://"+r.Addr()+"/token", map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {"ref"}})
	if err != nil {
		t.Fatal(err)
	}
	defer post.Body.Close()
	body, _ := io.ReadAll(post.Body)
	if !bytes.Contains(body, []byte(`"tok"`)) {
		t.Fatalf("refresh token gave %q", body)
	}
}

func TestResetAndRange(t *testing.T) {
	r := start(t)
	img := push(t, r, image.Form{Compression: "plain"})
	url, size := blobURL(t, r, img, 0)
	r.ResetBlobs(1000, 1)
	if _, body, err := get(t, url); err == nil {
		t.Fatalf("no reset, %d bytes", len(body))
	}
	resp, body, err := get(t, url, "Range", fmt.Sprintf("bytes=1000-%d", size-1))
	if err != nil || resp.StatusCode != http.StatusPartialContent || int64(len(body)) != size-1000 {
		t.Fatalf("range gave %v, %d bytes: %v", resp, len(body), err)
	}
	_, body, err = get(t, url, "Range", "bytes=1000-")
	if err != nil || int64(len(body)) != size-1000 {
		t.Fatalf("open range gave %d bytes: %v", len(body), err)
	}
	if all, ranged := r.BlobRequests(); all < 3 || ranged != 2 {
		t.Fatalf("recorded %d blob requests, %d with a range", all, ranged)
	}
}

func TestStall(t *testing.T) {
	r := start(t)
	img := push(t, r, image.Form{Compression: "plain"})
	url, size := blobURL(t, r, img, 0)
	reached := r.StallBlobs(500)
	done := make(chan int, 1)
	go func() {
		_, body, _ := get(t, url)
		done <- len(body)
	}()
	<-reached
	select {
	case n := <-done:
		t.Fatalf("did not stall: %d bytes", n)
	default:
	}
	r.Release()
	if n := <-done; int64(n) != size {
		t.Fatalf("%d bytes after the stall, want %d", n, size)
	}
}
