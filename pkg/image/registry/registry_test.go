package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

const blob = "the content of a blob"

var manifest = []byte(`{"schemaVersion":2}`)

// server is a registry with one image, app:latest, and one blob, behind a
// handler that may refuse.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	auths []string // Authorization of each request
}

func (s *server) host() string { return strings.TrimPrefix(s.URL, "http://") }

func newServer(t *testing.T, gate func(w http.ResponseWriter, r *http.Request) bool) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.auths = append(s.auths, r.Header.Get("Authorization"))
		s.mu.Unlock()
		if gate != nil && !gate(w, r) {
			return
		}
		switch {
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
			_, _ = w.Write(manifest)
		case strings.HasSuffix(r.URL.Path, digest.FromString(blob).String()):
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(blob))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) sawAuth() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var saw []string
	for _, a := range s.auths {
		if a != "" {
			saw = append(saw, a)
		}
	}
	return saw
}

func session(t *testing.T, c Config, ref string, a *Auth) *Session {
	t.Helper()
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSession(t.Context(), c, named, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func fetch(ctx context.Context, s *Session, offset int64) (string, error) {
	rc, err := s.Fetch(ctx, ocispec.Descriptor{Digest: digest.FromString(blob), Size: int64(len(blob))}, offset)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(rc)
	return string(b), errors.Join(err, rc.Close())
}

// resolveAndFetch does what a pull does.
func resolveAndFetch(t *testing.T, s *Session) error {
	t.Helper()
	d, err := s.Resolve(t.Context())
	if err != nil {
		return err
	}
	if d.Digest != digest.FromBytes(manifest) {
		t.Errorf("resolved to %s", d.Digest)
	}
	got, err := fetch(t.Context(), s, 4)
	if err == nil && got != blob[4:] {
		t.Errorf("got %q", got)
	}
	return err
}

func basicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// bearerRegistry asks for a token that its own token server gives to whoever
// shows the right credentials.
func bearerRegistry(t *testing.T, oauth bool) *server {
	var s *server
	const token = "letmein-letmein"
	s = newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			_ = r.ParseForm()
			ok := r.Method == http.MethodGet && r.Header.Get("Authorization") == basicAuth("user", "s3cret")
			if oauth && r.Method == http.MethodPost {
				ok = r.Form.Get("username") == "user" && r.Form.Get("password") == "s3cret" ||
					r.Form.Get("grant_type") == "refresh_token" && r.Form.Get("refresh_token") == "refresh-me"
			} else if r.Method == http.MethodPost {
				w.WriteHeader(http.StatusNotFound)
				return false
			}
			if !ok || r.Form.Get("scope") != "repository:app:pull" || r.Form.Get("service") != "test" {
				w.WriteHeader(http.StatusUnauthorized)
				return false
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
			return false
		}
		if r.Header.Get("Authorization") == "Bearer "+token {
			return true
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:app:pull"`, s.host()))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	return s
}

func TestBearer(t *testing.T) {
	for name, c := range map[string]struct {
		oauth bool
		auth  *Auth
		ok    bool
	}{
		"get":            {false, &Auth{Username: "user", Password: "s3cret"}, true},
		"oauth":          {true, &Auth{Username: "user", Password: "s3cret"}, true},
		"refresh":        {true, &Auth{IdentityToken: "refresh-me"}, true},
		"registry token": {false, &Auth{RegistryToken: "letmein-letmein"}, true},
		"wrong refresh":  {true, &Auth{IdentityToken: "nonsense"}, false},
		"wrong password": {true, &Auth{Username: "user", Password: "nonsense"}, false},
		"wrong registry": {false, &Auth{RegistryToken: "nonsense"}, false},
		"none":           {false, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := bearerRegistry(t, c.oauth)
			err := resolveAndFetch(t, session(t, Config{}, r.host()+"/app", c.auth))
			if c.ok != (err == nil) || err != nil && !errdefs.IsUnauthorized(err) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "nonsense") {
				t.Errorf("secret in %v", err)
			}
			if n := len(r.auths); n > 12 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestExpiredTokenIsReplaced(t *testing.T) {
	var r *server
	tokens := 0
	r = newServer(t, func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			tokens++
			fmt.Fprintf(w, `{"token":"token-%d"}`, tokens)
			return false
		}
		// Each token is good for the first request that shows it.
		if req.Header.Get("Authorization") == fmt.Sprintf("Bearer token-%d", tokens) && strings.Contains(req.URL.Path, "/manifests/") == (tokens == 1) {
			return true
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",error="invalid_token"`, r.host()))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	if err := resolveAndFetch(t, session(t, Config{}, r.host()+"/app", nil)); err != nil {
		t.Error(err)
	}
}

func TestRedirectKeepsSecrets(t *testing.T) {
	storage := newServer(t, nil)
	for name, auth := range map[string]*Auth{"basic": {Username: "user", Password: "s3cret"}, "token": {RegistryToken: "letmein-letmein"}} {
		t.Run(name, func(t *testing.T) {
			r := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Authorization") == "" {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return false
				}
				if strings.Contains(r.URL.Path, "/blobs/") {
					http.Redirect(w, r, storage.URL+r.URL.Path+"?X-Amz-Signature=verysecret", http.StatusTemporaryRedirect)
					return false
				}
				return true
			})
			if err := resolveAndFetch(t, session(t, Config{}, r.host()+"/app", auth)); err != nil {
				t.Fatal(err)
			}
			if saw := storage.sawAuth(); len(saw) > 0 {
				t.Errorf("the storage host saw %q", saw)
			}
			if len(r.sawAuth()) == 0 {
				t.Error("the registry saw no credentials")
			}
		})
	}
}

func TestRedirectErrors(t *testing.T) {
	asks := newServer(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	fails := newServer(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return false
	})
	for name, target := range map[string]string{"asks": asks.URL, "fails": fails.URL, "loop": "", "file": "file:///etc", "dead": "http://127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			r := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, target+r.URL.Path+"?X-Amz-Signature=verysecret", http.StatusTemporaryRedirect)
				return false
			})
			_, err := fetch(t.Context(), session(t, Config{}, r.host()+"/app", &Auth{Username: "user", Password: "s3cret"}), 0)
			if err == nil || strings.Contains(err.Error(), "verysecret") {
				t.Errorf("error %v", err)
			}
			if saw := append(asks.sawAuth(), fails.sawAuth()...); len(saw) > 0 {
				t.Errorf("another host saw %q", saw)
			}
		})
	}
}

func TestRealms(t *testing.T) {
	for _, c := range []struct {
		scheme, host, realm string
		creds, ok           bool
	}{
		{"https", "registry-1.docker.io", "https://auth.docker.io/token", true, true},
		{"https", "ghcr.io", "https://ghcr.io/token", true, true},
		{"https", "registry.example.co.uk:5000", "https://gitlab.example.co.uk/jwt", true, true},
		{"https", "registry.example.co.uk", "https://evil.co.uk/jwt", true, false},
		{"https", "registry.example.com", "https://evil.test/token", true, false},
		{"https", "registry.example.com", "https://evil.test/token", false, true},
		{"https", "registry.example.com", "https://trusted.test/token", true, true},
		{"https", "registry.example.com", "http://registry.example.com/token", true, false},
		{"https", "registry.example.com", "http://169.254.169.254/latest", false, false},
		{"https", "registry.example.com", "https://169.254.169.254/latest", false, false},
		{"https", "registry.example.com", "https://[::ffff:127.0.0.1]/x", false, false},
		{"https", "registry.example.com", "https://localhost/x", false, false},
		{"https", "registry.example.com", "file:///etc/passwd", false, false},
		{"https", "registry.example.com", "https://user:pass@registry.example.com/x", true, false},
		{"https", "registry.example.com", "gopher://registry.example.com", false, false},
		{"https", "10.0.0.1", "https://10.0.0.1:8443/token", true, true},
		{"https", "10.0.0.1", "https://10.0.0.2/token", true, false},
		{"http", "plain.example.com", "http://plain.example.com:81/token", true, true},
		{"http", "127.0.0.1:5000", "http://127.0.0.1:5001/token", true, true},
	} {
		err := origin{scheme: c.scheme, host: c.host}.checkRealm(c.realm, c.creds, []string{"trusted.test"})
		if c.ok != (err == nil) {
			t.Errorf("%s at %s, credentials %v: %v", c.realm, c.host, c.creds, err)
		}
	}
}

func TestMirrors(t *testing.T) {
	need := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == basicAuth("user", "s3cret") {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	mirror, upstream := newServer(t, need), newServer(t, need)
	dir := t.TempDir()
	hosts := fmt.Sprintf("server = %q\n[host.%q]\n", upstream.URL, mirror.URL)
	if err := os.MkdirAll(filepath.Join(dir, "example.test"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "example.test", "hosts.toml")
	if err := os.WriteFile(file, []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{CertsDirs: []string{filepath.Join(dir, "missing"), dir}}
	auth := &Auth{Username: "user", Password: "s3cret"}
	if err := resolveAndFetch(t, session(t, c, "example.test/app", auth)); err != nil {
		t.Fatal(err)
	}
	if len(mirror.auths) == 0 || len(mirror.sawAuth()) > 0 {
		t.Errorf("the mirror was asked %d times and saw %q", len(mirror.auths), mirror.sawAuth())
	}
	auth.ServerAddress = mirror.URL
	if err := resolveAndFetch(t, session(t, c, "example.test/app", auth)); err != nil {
		t.Fatal(err)
	}
	if len(mirror.sawAuth()) == 0 {
		t.Error("credentials given for the mirror did not reach it")
	}
	if err := os.WriteFile(file, []byte("server = \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := session(t, c, "example.test/app", nil).Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), "hosts.toml:1") {
		t.Errorf("broken hosts.toml: %v", err)
	}
}

func TestAuthFiles(t *testing.T) {
	r := newServer(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == basicAuth("user", "s3cret") {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	dir := t.TempDir()
	helper := "#!/bin/sh\nread server\n[ -z \"$SECRET_OF_DAEMON\" ] || exit 3\ncase $server in *" + r.host() + "*) echo '{\"Username\":\"user\",\"Secret\":\"s3cret\"}';; *) echo 'credentials not found in native keychain'; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	hang := "#!/bin/sh\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-hang"), []byte(hang), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("SECRET_OF_DAEMON", "x")
	good := base64.StdEncoding.EncodeToString([]byte("user:s3cret"))
	for name, c := range map[string]struct {
		file string
		ok   bool
	}{
		"auth":        {`{"auths":{"` + r.host() + `":{"auth":"` + good + `"}}}`, true},
		"url key":     {`{"auths":{"http://` + r.host() + `/v1/":{"auth":"` + good + `"}}}`, true},
		"path key":    {`{"auths":{"` + r.host() + `/app":{"auth":"` + good + `"},"` + r.host() + `":{"username":"no","password":"no"}}}`, true},
		"other path":  {`{"auths":{"` + r.host() + `/apple":{"auth":"` + good + `"}}}`, false},
		"other host":  {`{"auths":{"quay.io":{"auth":"` + good + `"}}}`, false},
		"helper":      {`{"credHelpers":{"` + r.host() + `":"test"}}`, true},
		"store":       {`{"credsStore":"test","auths":{"http://` + r.host() + `":{}}}`, true},
		"not found":   {`{"credHelpers":{"` + r.host() + `":"test"}}` + "\n", true},
		"no helper":   {`{"credHelpers":{"` + r.host() + `":"missing"}}`, false},
		"bad name":    {`{"credHelpers":{"` + r.host() + `":"../../bin/sh"}}`, false},
		"hanging":     {`{"credHelpers":{"` + r.host() + `":"hang"}}`, false},
		"not json":    {`s3cret`, false},
		"empty store": {`{"credsStore":""}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			config := Config{AuthFiles: []string{filepath.Join(dir, "missing.json"), file}, HelperTimeout: 500 * time.Millisecond}
			err := resolveAndFetch(t, session(t, config, r.host()+"/app", nil))
			if c.ok != (err == nil) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("secret in %v", err)
			}
		})
	}
}

func TestScrub(t *testing.T) {
	var s scrubber
	s.add(credentials{username: "user", secret: "hunter2hunter2"})
	for _, text := range []string{
		`Get "https://user:pa55word@host/x?token=verysecret": refused`,
		"https://s3.test/x?X-Amz-Signature=verysecret&b=c",
		"Authorization: Bearer verysecretverysecret",
		"sent basic dXNlcjp2ZXJ5c2VjcmV0",
		"password hunter2hunter2 refused",
		`{"refresh_token":"verysecret"}`,
		"a=1&password=verysecret&x=y",
	} {
		got := s.clean(text)
		for _, secret := range []string{"verysecret", "pa55word", "hunter2", "dXNlcjp2ZXJ5c2VjcmV0"} {
			if strings.Contains(got, secret) {
				t.Errorf("%q still has %s: %q", text, secret, got)
			}
		}
	}
	if text := "may require authorization: authorization failed: no credentials for example.test"; s.clean(text) != strings.Replace(text, ":", ";", 1) {
		t.Errorf("the reason is lost: %q", s.clean(text))
	}
	if got := s.clean("host https://example.test/v2/app/blobs/sha256:abc\x1b[31m not found"); got != "host https://example.test/v2/app/blobs/sha256:abc [31m not found" {
		t.Errorf("harmless text became %q", got)
	}
	if got := s.clean(strings.Repeat("ä", 10000)); len(got) > maxErrorText+100 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestStatusClasses(t *testing.T) {
	for code, want := range map[int]error{401: errdefs.ErrUnauthenticated, 403: errdefs.ErrPermissionDenied, 404: errdefs.ErrNotFound, 429: ErrUnavailable, 500: ErrUnavailable, 503: ErrUnavailable, 418: errdefs.ErrUnknown} {
		r := newServer(t, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			return false
		})
		s := session(t, Config{}, r.host()+"/app", nil)
		if _, err := s.Resolve(t.Context()); !errors.Is(err, want) {
			t.Errorf("resolve with status %d: %v", code, err)
		}
		if _, err := fetch(t.Context(), s, 0); !errors.Is(err, want) {
			t.Errorf("fetch with status %d: %v", code, err)
		}
	}
}

func TestBigTokenIsRefused(t *testing.T) {
	var r *server
	r = newServer(t, func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			_, _ = io.WriteString(w, `{"token":"`+strings.Repeat("x", 2*maxToken)+`"}`)
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, r.host()))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	if _, err := session(t, Config{}, r.host()+"/app", nil).Resolve(t.Context()); err == nil {
		t.Error("no error")
	}
}
