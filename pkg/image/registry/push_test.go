package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sessionOn begins to talk to a test's server.
func sessionOn(t *testing.T, server *httptest.Server, a *Auth) *Session {
	t.Helper()
	named, err := reference.ParseNormalizedNamed(strings.TrimPrefix(server.URL, "http://") + "/repo:tag")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSession(t.Context(), Config{}, named, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func blobOf(text string) (ocispec.Descriptor, func(context.Context) (io.ReadCloser, error)) {
	return ocispec.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}, func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}
}

// TestUploadElsewhere sends a blob where the registry says, and credentials only
// to the registry.
func TestUploadElsewhere(t *testing.T) {
	var stored bytes.Buffer
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials went to another host")
		}
		_, _ = io.Copy(&stored, r.Body)
		w.WriteHeader(http.StatusCreated)
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "ada" || password != "secret":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPost:
			w.Header().Set("Location", elsewhere.URL+"/put?signed=1")
			w.WriteHeader(http.StatusAccepted)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	desc, open := blobOf("content of a blob")
	up, err := sessionOn(t, server, &Auth{Username: "ada", Password: "secret"}).PushBlob(t.Context(), desc, nil, open)
	if err != nil || up.Exists || stored.String() != "content of a blob" {
		t.Errorf("PushBlob = %+v, %v, stored %q", up, err, stored.String())
	}
}

func TestUploadRefused(t *testing.T) {
	failure := errors.New("cannot be read")
	for name, test := range map[string]struct {
		location string
		status   int
		open     func(context.Context) (io.ReadCloser, error)
		want     func(error) bool
	}{
		"no location": {status: http.StatusAccepted, want: errdefs.IsUnknown},
		"file scheme": {status: http.StatusAccepted, location: "file:///etc/passwd", want: errdefs.IsFailedPrecondition},
		"denied":      {status: http.StatusForbidden, want: errdefs.IsPermissionDenied},
		"down":        {status: http.StatusBadGateway, want: func(err error) bool { return errors.Is(err, ErrUnavailable) }},
		"no content":  {status: http.StatusAccepted, location: "/put", open: func(context.Context) (io.ReadCloser, error) { return nil, failure }, want: func(err error) bool { return errors.Is(err, failure) }},
		"bad content": {status: http.StatusAccepted, location: "/put", open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(broken{failure}), nil }, want: func(err error) bool { return errors.Is(err, failure) }},
		"not taken":   {status: http.StatusAccepted, location: "/put", want: func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.Method {
				case http.MethodPost:
					w.Header().Set("Location", test.location)
					w.WriteHeader(test.status)
				case http.MethodPut:
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(http.StatusBadRequest)
				default:
					http.NotFound(w, r)
				}
			}))
			defer server.Close()
			desc, open := blobOf("x")
			if test.open != nil {
				open = test.open
			}
			if _, err := sessionOn(t, server, nil).PushBlob(t.Context(), desc, nil, open); !test.want(err) {
				t.Errorf("PushBlob: %v", err)
			}
		})
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// TestPushManifestLie does not believe a registry that has another manifest.
func TestPushManifestLie(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", digest.FromString("another").String())
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("{}"), Size: 2}
	if err := sessionOn(t, server, nil).PushManifest(t.Context(), desc, []byte("{}"), "tag"); !errdefs.IsDataLoss(err) {
		t.Errorf("PushManifest: %v", err)
	}
}

// TestCatalogPages follows pages of one registry and no further.
func TestCatalogPages(t *testing.T) {
	next := "/v2/_catalog?last=a"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", "<"+next+`>; rel="next"`)
			_, _ = w.Write([]byte(`{"repositories":["a/web"]}`))
			return
		}
		_, _ = w.Write([]byte(`{"repositories":["b/web","b/db"]}`))
	}))
	defer server.Close()
	found, err := sessionOn(t, server, nil).Search(t.Context(), "web", 0)
	if err != nil || len(found) != 2 {
		t.Errorf("Search = %v, %v", found, err)
	}
	next = "http://elsewhere.example/v2/_catalog"
	if _, err := sessionOn(t, server, nil).Search(t.Context(), "web", 0); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Search that leads elsewhere: %v", err)
	}
}
