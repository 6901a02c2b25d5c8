package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// fakeRegistry is a registry whose every byte the test decides. It serves
// ranges as real ones do.
type fakeRegistry struct {
	*httptest.Server
	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	manifests map[string]fakeManifest // by repository/reference
	requests  []string
	// intercept answers a request itself where it returns true.
	intercept func(w http.ResponseWriter, r *http.Request) bool
}

type fakeManifest struct {
	mediaType string
	body      []byte
}

func newFakeRegistry(t testing.TB) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{blobs: map[digest.Digest][]byte{}, manifests: map[string]fakeManifest{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRegistry) host() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
	intercept := f.intercept
	f.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	f.serve(w, r)
}

func (f *fakeRegistry) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	repo, ref, isManifest := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if isManifest {
		m, ok := f.manifests[repo+"/"+ref]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.body).String())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.body))
		return
	}
	_, d, _ := strings.Cut(r.URL.Path, "/blobs/")
	b, ok := f.blobs[digest.Digest(d)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// onRequest sets the interceptor.
func (f *fakeRegistry) onRequest(fn func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.intercept = fn
}

// count says how many requests contain all of the parts.
func (f *fakeRegistry) count(parts ...string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(r, p) }) {
			n++
		}
	}
	return n
}

func (f *fakeRegistry) blob(b []byte) digest.Digest {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := digest.FromBytes(b)
	f.blobs[d] = b
	return d
}

// manifest stores a document under its digest and all tags of a repository.
func (f *fakeRegistry) manifest(mediaType string, doc any, repo string, tags ...string) ocispec.Descriptor {
	body, ok := doc.([]byte)
	if !ok {
		body, _ = json.Marshal(doc)
	}
	d := digest.FromBytes(body)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ref := range append(tags, d.String()) {
		f.manifests[repo+"/"+ref] = fakeManifest{mediaType, body}
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

// fakeLayer is a layer on its way into a registry.
type fakeLayer struct {
	blob      []byte
	mediaType string
	diffID    digest.Digest
}

type fakeImage struct {
	id     string
	layers []fakeLayer
	config ocispec.Image
	ocispec.Descriptor
}

// push stores an image in a repository under tags.
func (f *fakeRegistry) push(repo string, config ocispec.Image, layers []fakeLayer, tags ...string) fakeImage {
	if config.Architecture == "" {
		config.OS, config.Architecture = "linux", runtime.GOARCH
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: l.mediaType, Digest: f.blob(l.blob), Size: int64(len(l.blob))})
	}
	c, _ := json.Marshal(config)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: f.blob(c), Size: int64(len(c))}
	return fakeImage{
		id: m.Config.Digest.String(), layers: layers, config: config,
		Descriptor: f.manifest(ocispec.MediaTypeImageManifest, m, repo, tags...),
	}
}

// tarball makes a tar archive of files; a name that ends with / is a directory.
func tarball(files map[string]string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Mode, h.Typeflag = 0o755, tar.TypeDir
		}
		_ = w.WriteHeader(h)
		_, _ = w.Write([]byte(files[name]))
	}
	_ = w.Close()
	return buf.Bytes()
}

func gzipLayer(files map[string]string) fakeLayer {
	plain := tarball(files)
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(plain)
	_ = w.Close()
	return fakeLayer{blob: buf.Bytes(), mediaType: ocispec.MediaTypeImageLayerGzip, diffID: digest.FromBytes(plain)}
}

func zstdLayer(files map[string]string) fakeLayer {
	plain := tarball(files)
	w, _ := zstd.NewWriter(nil)
	defer w.Close()
	return fakeLayer{blob: w.EncodeAll(plain, nil), mediaType: ocispec.MediaTypeImageLayerZstd, diffID: digest.FromBytes(plain)}
}

func plainLayer(files map[string]string) fakeLayer {
	plain := tarball(files)
	return fakeLayer{blob: plain, mediaType: ocispec.MediaTypeImageLayer, diffID: digest.FromBytes(plain)}
}

// noise is content that does not compress, so that sizes are what they seem.
func noise(n int, seed uint32) string {
	b := make([]byte, n)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(seed >> 24)
	}
	return string(b)
}

// open opens a store, and closes it with the test where the test does not.
func open(t testing.TB, root string, change ...func(*Config)) *Store {
	t.Helper()
	c := Config{Root: root, ProgressTimeout: 5 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

func pull(t testing.TB, s *Store, ref string) string {
	t.Helper()
	id, err := s.Pull(t.Context(), PullRequest{Ref: ref})
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return id
}

// checkClean fails the test where a closed store has left work half done.
func checkClean(t *testing.T, root string, partials int) {
	t.Helper()
	for dir, want := range map[string]int{dirStaging: 0, dirPartial: partials} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != want {
			t.Errorf("%s has %d entries, want %d: %v", dir, len(entries), want, entries)
		}
	}
}

func layerCount(t *testing.T, root string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, dirLayers))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// mountRootfs prepares and mounts a rootfs, and undoes both with the test.
func mountRootfs(t *testing.T, s *Store, id, image string, o RootfsOptions) string {
	t.Helper()
	target := t.TempDir()
	if err := s.PrepareRootfs(t.Context(), id, image); err != nil {
		t.Fatalf("prepare rootfs: %v", err)
	}
	t.Cleanup(func() {
		if err := linux.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	if err := s.MountRootfs(t.Context(), id, target, o); err != nil {
		t.Fatalf("mount rootfs: %v", err)
	}
	return target
}

func readFile(t *testing.T, names ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(names...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually waits for something that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("never happened: " + what)
		}
	}
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ROOT") != "" {
			t.Fatal("not root")
		}
		t.Skip("needs root to mount")
	}
}

func manyLayers(n int) []fakeLayer {
	var layers []fakeLayer
	for i := range n {
		layers = append(layers, gzipLayer(map[string]string{fmt.Sprintf("file%d", i): fmt.Sprint(i), "last": fmt.Sprint(i)}))
	}
	return layers
}
