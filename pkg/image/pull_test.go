package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPullNames(t *testing.T) {
	f := newFakeRegistry(t)
	img := f.push("team/app", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"a": "1"})}, "latest", "v1", "v2")
	repo := f.host() + "/team/app"
	byDigest := repo + "@" + img.Digest.String()
	s := open(t, t.TempDir())

	id := pull(t, s, byDigest)
	if id != img.id {
		t.Fatalf("id %s, want the config digest %s", id, img.id)
	}
	got, err := s.Resolve(byDigest)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Tags) != 0 || !slices.Equal(got.Digests, []string{byDigest}) {
		t.Errorf("after a pull by digest: tags %v digests %v", got.Tags, got.Digests)
	}
	pull(t, s, repo)
	pull(t, s, repo+":v2")
	pull(t, s, repo+":v1")
	if len(s.List()) != 1 {
		t.Fatalf("%d images, want one with three tags", len(s.List()))
	}
	hex := strings.TrimPrefix(id, "sha256:")
	for _, ref := range []string{id, hex, hex[:12], "sha256:" + hex[:10], repo, repo + ":latest", repo + ":v1", byDigest, repo + ":v1@" + img.Digest.String()} {
		got, err := s.Resolve(ref)
		if err != nil {
			t.Errorf("resolve %s: %v", ref, err)
			continue
		}
		if !slices.Equal(got.Tags, []string{repo + ":latest", repo + ":v1", repo + ":v2"}) || !slices.Equal(got.Digests, []string{byDigest}) || got.Size == 0 {
			t.Errorf("resolve %s: %+v", ref, got)
		}
	}
	if n := f.count("GET", "/blobs/"+digest.FromBytes(img.layers[0].blob).String()); n != 1 {
		t.Errorf("layer downloaded %d times", n)
	}
}

func TestTagMoves(t *testing.T) {
	f := newFakeRegistry(t)
	root := t.TempDir()
	s := open(t, root)
	first := f.push("app", ocispec.Image{Author: "first"}, []fakeLayer{gzipLayer(map[string]string{"a": "1"})}, "latest")
	ref := f.host() + "/app:latest"
	pull(t, s, ref)
	second := f.push("app", ocispec.Image{Author: "second"}, []fakeLayer{gzipLayer(map[string]string{"a": "2"})}, "latest")
	if id := pull(t, s, ref); id != second.id {
		t.Fatalf("pulled %s, want %s", id, second.id)
	}
	check := func(s *Store) {
		t.Helper()
		old, err := s.Resolve(first.id)
		if err != nil {
			t.Fatal(err)
		}
		if len(old.Tags) != 0 || len(old.Digests) != 1 {
			t.Errorf("old image has tags %v digests %v", old.Tags, old.Digests)
		}
		if now, err := s.Resolve(ref); err != nil || now.ID != second.id {
			t.Errorf("tag points to %v, %v", now, err)
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, root))
}

func TestPullKinds(t *testing.T) {
	f := newFakeRegistry(t)
	files := map[string]string{"dir/": "", "dir/file": "content"}
	foreign := gzipLayer(map[string]string{"f": "x"})
	foreign.mediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	docker := gzipLayer(map[string]string{"d": "x"})
	docker.mediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	mislabelled := gzipLayer(map[string]string{"m": "x"})
	mislabelled.mediaType = ocispec.MediaTypeImageLayer
	for name, layers := range map[string][]fakeLayer{
		"none": nil, "gzip": {gzipLayer(files)}, "zstd": {zstdLayer(files)}, "plain": {plainLayer(files)},
		"foreign": {foreign}, "docker": {docker}, "mislabelled": {mislabelled},
		"repeated": {gzipLayer(files), docker, gzipLayer(files)},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, root)
			img := f.push(name, ocispec.Image{}, layers, "latest")
			if id := pull(t, s, f.host()+"/"+name); id != img.id {
				t.Errorf("id %s, want %s", id, img.id)
			}
			for _, l := range layers {
				if _, err := os.Stat(filepath.Join(root, dirLayers, l.diffID.Encoded(), layerDiff)); err != nil {
					t.Error(err)
				}
			}
			if got, err := s.Resolve(img.id); err != nil || got.Size == 0 {
				t.Errorf("%+v, %v", got, err)
			}
			checkClean(t, root, 0)
		})
	}
}

func TestPullIndex(t *testing.T) {
	f := newFakeRegistry(t)
	mine := f.push("multi", ocispec.Image{Author: "mine"}, []fakeLayer{gzipLayer(map[string]string{"a": "mine"})})
	other := f.push("multi", ocispec.Image{Author: "other", Platform: ocispec.Platform{OS: "linux", Architecture: "s390x"}}, []fakeLayer{gzipLayer(map[string]string{"a": "other"})})
	attestation := other.Descriptor
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	mine.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{attestation, other.Descriptor, mine.Descriptor}}
	top := f.manifest(ocispec.MediaTypeImageIndex, index, "multi", "latest")
	list := f.manifest(mediaTypeDockerIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaTypeDockerIndex, Manifests: index.Manifests}, "multi", "docker")
	repo := f.host() + "/multi"
	s := open(t, t.TempDir())
	for ref, want := range map[string]string{repo: top.Digest.String(), repo + ":docker": list.Digest.String(), repo + "@" + mine.Digest.String(): mine.Digest.String()} {
		if id := pull(t, s, ref); id != mine.id {
			t.Fatalf("pulled %s, want %s", id, mine.id)
		}
		if img, err := s.Resolve(repo + "@" + want); err != nil || img.ID != mine.id {
			t.Errorf("%s: %v", ref, err)
		}
	}
	f.manifest(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{attestation, other.Descriptor}}, "multi", "foreign")
	if _, err := s.Pull(t.Context(), PullRequest{Ref: repo + ":foreign"}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("index without this platform: %v", err)
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: repo + "@" + other.Digest.String()}); !errdefs.IsNotFound(err) {
		t.Errorf("manifest for another machine: %v", err)
	}
	deep := top
	for range maxIndexDepth + 1 {
		deep.Platform = mine.Platform
		deep = f.manifest(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{deep}}, "multi", "deep")
	}
	if _, err := s.Pull(t.Context(), PullRequest{Ref: repo + ":deep"}); !errdefs.IsDataLoss(err) {
		t.Errorf("deep index: %v", err)
	}
}

func TestPullRefused(t *testing.T) {
	f := newFakeRegistry(t)
	good := f.push("bad", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"a": "1"})}, "good")
	body := string(f.manifests["bad/good"].body)
	wrongDiff := gzipLayer(map[string]string{"a": "1"})
	wrongDiff.diffID = digest.FromString("other")
	f.push("bad", ocispec.Image{}, []fakeLayer{wrongDiff}, "diffid")
	lying := gzipLayer(map[string]string{"a": "2"})
	liar := f.push("bad", ocispec.Image{}, []fakeLayer{lying}, "digest")
	f.blobs[digest.FromBytes(lying.blob)] = gzipLayer(map[string]string{"a": "3"}).blob
	junk := fakeLayer{blob: []byte("\x1f\x8bjunk that is no gzip"), mediaType: ocispec.MediaTypeImageLayerGzip, diffID: digest.FromString("x")}
	f.push("bad", ocispec.Image{}, []fakeLayer{junk}, "junk")
	f.push("bad", ocispec.Image{}, []fakeLayer{{blob: []byte("x"), mediaType: "application/vnd.oci.image.layer.v1.erofs", diffID: digest.FromString("x")}}, "erofs")
	_ = liar
	for tag, change := range map[string][2]string{
		"schema1":   {`"schemaVersion":2`, `"schemaVersion":1`},
		"schema3":   {`"schemaVersion":2`, `"schemaVersion":3`},
		"ambiguous": {`"layers":`, `"manifests":[],"layers":`},
		"ambigcase": {`"layers":`, `"Manifests":[],"layers":`},
		"layers":    {`"layers":[`, `"layers":[` + strings.Repeat(`{"mediaType":"`+ocispec.MediaTypeImageLayerGzip+`","digest":"`+digest.FromBytes(good.layers[0].blob).String()+`","size":`+fmt.Sprint(len(good.layers[0].blob))+`},`, 3)},
		"negative":  {`"size":`, `"size":-`},
		"untyped":   {ocispec.MediaTypeImageConfig, ""},
		"traversal": {`"digest":"sha256:`, `"digest":"sha256:../../../../`},
		"md5":       {`"digest":"sha256:`, `"digest":"md5:`},
		"null":      {body, `null`},
		"trailing":  {body, body + `x`},
		"size":      {fmt.Sprintf(`"size":%d}]`, len(good.layers[0].blob)), fmt.Sprintf(`"size":%d}]`, len(good.layers[0].blob)-1)},
		"sizeover":  {fmt.Sprintf(`"size":%d}]`, len(good.layers[0].blob)), fmt.Sprintf(`"size":%d}]`, 5<<50)},
	} {
		changed := strings.ReplaceAll(body, change[0], change[1])
		if changed == body {
			t.Fatalf("%s changes nothing", tag)
		}
		f.manifest(ocispec.MediaTypeImageManifest, []byte(changed), "bad", tag)
	}
	f.manifest(ocispec.MediaTypeImageIndex, []byte(body), "bad", "contradiction")
	root := t.TempDir()
	s := open(t, root)
	for _, tag := range []string{"schema1", "schema3", "ambiguous", "ambigcase", "layers", "negative", "untyped", "traversal", "md5", "null", "trailing", "size", "sizeover", "contradiction", "diffid", "digest", "junk", "erofs", "missing"} {
		_, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/bad:" + tag})
		if err == nil {
			t.Errorf("%s was accepted", tag)
		} else {
			t.Logf("%s: %v", tag, err)
		}
		if tag == "missing" && !errdefs.IsNotFound(err) {
			t.Errorf("missing image: %v", err)
		}
	}
	for _, ref := range []string{"", "docker.io/UPPER/case:x", "docker://busybox", "busybox@sha256:short", "../x", "-x", strings.Repeat("a", 64), "sha256:" + strings.Repeat("a", 64), strings.Repeat("a/", 2000) + "b"} {
		if _, err := s.Pull(t.Context(), PullRequest{Ref: ref}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("reference %.80q: %v", ref, err)
		}
	}
	if len(s.List()) != 0 || layerCount(t, root) != 0 {
		t.Errorf("%d images and %d layers left", len(s.List()), layerCount(t, root))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, root, 0)
}

// cutOnce breaks the connection in the middle of the first answer with the
// given digest.
func cutOnce(f *fakeRegistry, blob []byte) func(http.ResponseWriter, *http.Request) bool {
	var once sync.Once
	d := digest.FromBytes(blob).String()
	return func(w http.ResponseWriter, r *http.Request) bool {
		cut := false
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, d) {
			once.Do(func() { cut = true })
		}
		if cut {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = w.Write(blob[:len(blob)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		return cut
	}
}

func TestPullResumesAfterReset(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"big": noise(1<<20, 1)})
	f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	f.onRequest(cutOnce(f, l.blob))
	root := t.TempDir()
	s := open(t, root)
	id := pull(t, s, f.host()+"/app")
	if f.count("GET", "/blobs/"+digest.FromBytes(l.blob).String(), "bytes=") != 1 {
		t.Errorf("no range request: %v", f.requests)
	}
	if got, err := s.Resolve(id); err != nil || got.Size < 1<<20 {
		t.Errorf("%+v %v", got, err)
	}
	checkClean(t, root, 0)
}

func TestPullResumesAfterRestart(t *testing.T) {
	for name, stop := range map[string]func(*Store){"close": func(*Store) {}, "stop pulls": (*Store).StopPulls} {
		t.Run(name, func(t *testing.T) { pullResumesAfterRestart(t, stop) })
	}
}

func pullResumesAfterRestart(t *testing.T, stop func(*Store)) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"big": noise(4<<20, 2)})
	f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	half := make(chan struct{})
	var once sync.Once
	d := digest.FromBytes(l.blob).String()
	f.onRequest(func(w http.ResponseWriter, r *http.Request) bool {
		first := false
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, d) {
			once.Do(func() { first = true })
		}
		if !first {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(l.blob)))
		_, _ = w.Write(l.blob[:len(l.blob)/2])
		_ = http.NewResponseController(w).Flush()
		close(half)
		<-r.Context().Done()
		return true
	})
	root := t.TempDir()
	s := open(t, root)
	result := make(chan error)
	go func() {
		_, err := s.Pull(context.WithoutCancel(t.Context()), PullRequest{Ref: f.host() + "/app"})
		result <- err
	}()
	<-half
	eventually(t, "half of the layer in the partial file", func() bool { return s.partial.Load() >= int64(len(l.blob)/2) })
	stop(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errdefs.IsUnavailable(err) {
		t.Errorf("pull during close: %v", err)
	}
	checkClean(t, root, 1)
	s = open(t, root)
	if u, err := s.Usage(); err != nil || u.UsedBytes < uint64(len(l.blob)/2) {
		t.Errorf("usage does not count partial downloads: %+v %v", u, err)
	}
	pull(t, s, f.host()+"/app")
	if f.count("GET", d, fmt.Sprintf("bytes=%d-", len(l.blob)/2)) != 1 {
		t.Errorf("no range request from the middle: %v", f.requests)
	}
	checkClean(t, root, 0)
	if s.partial.Load() != 0 {
		t.Errorf("%d bytes of partials counted, none left", s.partial.Load())
	}
}

func TestPullDiscardsWrongPartial(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"big": noise(1<<20, 3)})
	f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	root := t.TempDir()
	s := open(t, root)
	wrong := append([]byte{}, l.blob[:len(l.blob)/2]...)
	wrong[len(wrong)/2] ^= 0xff
	path := s.partialPath(layerKey{blob: digest.FromBytes(l.blob), diffID: l.diffID})
	if err := os.WriteFile(path, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	pull(t, s, f.host()+"/app")
	checkClean(t, root, 0)
}

func TestPullStalled(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"big": noise(1<<20, 4)})
	f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	d := digest.FromBytes(l.blob).String()
	var mu sync.Mutex
	stalls := 1
	f.onRequest(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, d) {
			return false
		}
		mu.Lock()
		stall := stalls > 0
		stalls--
		mu.Unlock()
		if !stall {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(l.blob)))
		if r.Header.Get("Range") == "" {
			_, _ = w.Write(l.blob[:1000])
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	root := t.TempDir()
	s := open(t, root, func(c *Config) { c.ProgressTimeout = 100 * time.Millisecond })
	pull(t, s, f.host()+"/app")
	if err := s.Remove(t.Context(), f.host()+"/app"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	stalls = 1000
	mu.Unlock()
	_, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/app"})
	if !errors.Is(err, ErrRegistryUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
		t.Errorf("registry that never answers: %v", err)
	}
	// It says where the time went.
	part := regexp.MustCompile(`layer sha256:.*\(wait for others \S+, in download for \S+, 1000 of \d+ bytes\) \(resolve \S+, signature policy \S+, manifest \S+, in layers for \S+\)`)
	if err != nil && !part.MatchString(err.Error()) {
		t.Errorf("the stages are not in %v", err)
	}
}

func TestRegistryUnavailable(t *testing.T) {
	s := open(t, t.TempDir())
	dead := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(dead.URL, "http://")
	dead.Close()
	_, err := s.Pull(t.Context(), PullRequest{Ref: host + "/app"})
	if !errors.Is(err, ErrRegistryUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") || strings.Count(err.Error(), "RegistryUnavailable") != 1 {
		t.Errorf("connection refused: %v", err)
	}
	f := newFakeRegistry(t)
	f.onRequest(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	if _, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/app"}); !errors.Is(err, ErrRegistryUnavailable) {
		t.Errorf("internal server error: %v", err)
	}
}

func TestPullDeadline(t *testing.T) {
	f := newFakeRegistry(t)
	f.push("app", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"big": noise(1<<20, 5)})}, "latest")
	f.onRequest(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-r.Context().Done()
			return true
		}
		return false
	})
	for _, limit := range []time.Duration{time.Millisecond, 100 * time.Millisecond} {
		root := t.TempDir()
		s := open(t, root)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		start := time.Now()
		_, err := s.Pull(ctx, PullRequest{Ref: f.host() + "/app"})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkClean(t, root, 0)
		if len(s.List()) != 0 || layerCount(t, root) != 0 {
			t.Error("something is left")
		}
	}
}

// gate holds requests for blobs back until it is opened.
func gate(f *fakeRegistry, blob digest.Digest) (waiting, open chan struct{}) {
	waiting, open = make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.onRequest(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, blob.String()) {
			once.Do(func() { close(waiting) })
			select {
			case <-open:
			case <-r.Context().Done():
			}
		}
		return false
	})
	return waiting, open
}

func TestConcurrentPullsShare(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(map[string]string{"shared": noise(1<<20, 6)})
	own := []fakeLayer{gzipLayer(map[string]string{"a": "a"}), gzipLayer(map[string]string{"b": "b"})}
	a := f.push("a", ocispec.Image{Author: "a"}, []fakeLayer{shared, own[0]}, "latest", "other")
	b := f.push("b", ocispec.Image{Author: "b"}, []fakeLayer{shared, own[1]}, "latest")
	waiting, openGate := gate(f, digest.FromBytes(shared.blob))
	root := t.TempDir()
	s := open(t, root)
	var wg sync.WaitGroup
	for _, p := range []struct{ ref, id string }{{"/a", a.id}, {"/a", a.id}, {"/a:other", a.id}, {"/b", b.id}, {"/b", b.id}} {
		for range 10 {
			wg.Go(func() {
				id, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + p.ref})
				if err != nil || id != p.id {
					t.Errorf("pull %s: %s %v", p.ref, id, err)
				}
			})
		}
	}
	<-waiting
	close(openGate)
	wg.Wait()
	for _, l := range append(own, shared) {
		if n := f.count("GET", digest.FromBytes(l.blob).String()); n != 1 {
			t.Errorf("layer downloaded %d times", n)
		}
	}
	if len(s.List()) != 2 || layerCount(t, root) != 3 {
		t.Errorf("%d images, %d layers", len(s.List()), layerCount(t, root))
	}
	checkClean(t, root, 0)
}

func TestCancelOneOfTwo(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"big": noise(1<<20, 7)})
	img := f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	waiting, openGate := gate(f, digest.FromBytes(l.blob))
	root := t.TempDir()
	s := open(t, root)
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		id  string
		err error
	}
	first, second := make(chan result, 1), make(chan result, 1)
	start := func(ctx context.Context, c chan result) {
		id, err := s.Pull(ctx, PullRequest{Ref: f.host() + "/app"})
		c <- result{id, err}
	}
	go start(ctx, first)
	<-waiting
	go start(t.Context(), second)
	eventually(t, "second waiter", func() bool {
		s.pulls.mu.Lock()
		defer s.pulls.mu.Unlock()
		for _, r := range s.pulls.running {
			return r.waiters == 2
		}
		return false
	})
	cancel()
	if r := <-first; !errors.Is(r.err, context.Canceled) {
		t.Errorf("cancelled waiter: %v", r.err)
	}
	close(openGate)
	if r := <-second; r.err != nil || r.id != img.id {
		t.Errorf("the other waiter: %+v", r)
	}
	checkClean(t, root, 0)

	// And now both go.
	if err := s.Remove(t.Context(), img.id); err != nil {
		t.Fatal(err)
	}
	waiting, _ = gate(f, digest.FromBytes(l.blob))
	ctx, cancel = context.WithCancel(t.Context())
	go start(ctx, first)
	<-waiting
	cancel()
	<-first
	// A pull that comes in this moment starts anew and gets it.
	f.onRequest(nil)
	pull(t, s, f.host()+"/app")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, root, 0)
}

func TestFailedPullKeepsPartial(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(map[string]string{"big": noise(1<<20, 8)})
	f.push("app", ocispec.Image{}, []fakeLayer{l}, "latest")
	d := digest.FromBytes(l.blob).String()
	f.onRequest(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, d) {
			return false
		}
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(l.blob)))
		_, _ = w.Write(l.blob[:len(l.blob)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	root := t.TempDir()
	s := open(t, root)
	if _, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/app"}); !errdefs.IsPermissionDenied(err) {
		t.Fatalf("forbidden blob: %v", err)
	}
	f.onRequest(nil)
	before, middle := f.count("GET", d), fmt.Sprintf("bytes=%d-", len(l.blob)/2)
	pull(t, s, f.host()+"/app")
	if f.count("GET", d) != before+1 || f.count("GET", d, middle) == 0 {
		t.Errorf("second pull did not go on from the first: %v", f.requests)
	}
}

func TestAuth(t *testing.T) {
	f := newFakeRegistry(t)
	f.push("app", ocispec.Image{}, []fakeLayer{gzipLayer(map[string]string{"a": "1"})}, "latest")
	basic := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	f.onRequest(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == basic("user", "s3cret") {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	for name, c := range map[string]struct {
		auth *Auth
		ok   bool
	}{
		"none":         {nil, false},
		"password":     {&Auth{Username: "user", Password: "s3cret"}, true},
		"auth":         {&Auth{Auth: base64.StdEncoding.EncodeToString([]byte("user:s3cret"))}, true},
		"wrong":        {&Auth{Username: "user", Password: "hunter2hunter2"}, false},
		"other server": {&Auth{Username: "user", Password: "s3cret", ServerAddress: "https://quay.io"}, false},
		"this server":  {&Auth{Username: "user", Password: "s3cret", ServerAddress: "http://" + f.host() + "/v1/"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			_, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/app", Auth: c.auth})
			if c.ok != (err == nil) || err != nil && !errdefs.IsUnauthorized(err) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("secret in %v", err)
			}
		})
	}
	s := open(t, t.TempDir())
	if _, err := s.Pull(t.Context(), PullRequest{Ref: f.host() + "/app", Auth: &Auth{Auth: "%%%"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("garbage in auth: %v", err)
	}
}
