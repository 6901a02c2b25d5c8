package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Request is one request the node made.
type Request struct {
	Method, Path, Range, Authorization string
}

// Registry is a running registry.
type Registry struct {
	addr, pushAddr string
	store          http.Handler
	servers        []*http.Server
	serving        sync.WaitGroup

	mu       sync.Mutex
	auth     Auth
	fault    fault
	requests []Request
}

// Start runs a registry on free loopback ports. The caller must Close it.
func Start() (*Registry, error) { return StartAt("127.0.0.1:0") }

// StartAt is Start with the address that the node pulls from.
func StartAt(address string) (*Registry, error) {
	r := &Registry{store: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))}
	var err error
	if r.addr, err = r.serve(address, http.HandlerFunc(r.handle)); err != nil {
		return nil, err
	}
	if r.pushAddr, err = r.serve("127.0.0.1:0", r.store); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Registry) serve(address string, h http.Handler) (string, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("listen on %s: %w", address, err)
	}
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	r.servers = append(r.servers, s)
	r.serving.Go(func() { _ = s.Serve(l) })
	return l.Addr().String(), nil
}

// Close ends the registry and waits for its listeners.
func (r *Registry) Close() error {
	r.Release()
	var errs []error
	for _, s := range r.servers {
		errs = append(errs, s.Close())
	}
	r.serving.Wait()
	return errors.Join(errs...)
}

// Addr is the host:port the node pulls from.
func (r *Registry) Addr() string { return r.addr }

// Ref is the reference of an image in this registry, "127.0.0.1:port/repo:tag".
func (r *Registry) Ref(repoTag string) string { return r.addr + "/" + repoTag }

// Push stores an image and returns the digest of its manifest.
func (r *Registry) Push(ctx context.Context, repoTag string, img v1.Image) (v1.Hash, error) {
	ref, err := name.ParseReference(r.pushAddr+"/"+repoTag, name.Insecure)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return v1.Hash{}, fmt.Errorf("push %q: %w", repoTag, err)
	}
	return img.Digest()
}

// PushIndex stores an index with all its images and returns its digest.
func (r *Registry) PushIndex(ctx context.Context, repoTag string, idx v1.ImageIndex) (v1.Hash, error) {
	ref, err := name.ParseReference(r.pushAddr+"/"+repoTag, name.Insecure)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := remote.WriteIndex(ref, idx, remote.WithContext(ctx)); err != nil {
		return v1.Hash{}, fmt.Errorf("push index %q: %w", repoTag, err)
	}
	return idx.Digest()
}

// Requests are the requests made since the last ForgetRequests.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// ForgetRequests empties the record.
func (r *Registry) ForgetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// BlobRequests counts the recorded GETs of blobs, and of those the ones that
// asked for a range.
func (r *Registry) BlobRequests() (all, ranged int) {
	for _, q := range r.Requests() {
		if q.Method != http.MethodGet || !strings.Contains(q.Path, "/blobs/") {
			continue
		}
		all++
		if q.Range != "" {
			ranged++
		}
	}
	return all, ranged
}

func (r *Registry) handle(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, Request{q.Method, q.URL.Path, q.Header.Get("Range"), q.Header.Get("Authorization")})
	auth := r.auth
	r.mu.Unlock()
	if q.URL.Path == "/token" {
		auth.token(w, q)
		return
	}
	if !auth.allows(q) {
		auth.challenge(w, r.addr)
		return
	}
	if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
		w = r.faulty(w)
		q = r.boundRange(q)
	}
	r.store.ServeHTTP(w, q)
}

// boundRange gives a range without an end, "bytes=5-", the end the store wants.
func (r *Registry) boundRange(q *http.Request) *http.Request {
	value, open := strings.CutSuffix(q.Header.Get("Range"), "-")
	if !open {
		return q
	}
	head := q.Clone(q.Context())
	head.Method = http.MethodHead
	var size headerOnly
	r.store.ServeHTTP(&size, head)
	length, err := strconv.ParseInt(size.Header().Get("Content-Length"), 10, 64)
	if err != nil {
		return q
	}
	bound := q.Clone(q.Context())
	bound.Header.Set("Range", fmt.Sprintf("%s-%d", value, length-1))
	return bound
}

// headerOnly keeps the header of an answer.
type headerOnly struct{ header http.Header }

func (h *headerOnly) Header() http.Header {
	if h.header == nil {
		h.header = http.Header{}
	}
	return h.header
}
func (h *headerOnly) Write(p []byte) (int, error) { return len(p), nil }
func (h *headerOnly) WriteHeader(int)             {}
