package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAdmin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pprof.sock")
	// Twice, since the second daemon finds the first one's socket.
	for range 2 {
		stop, err := serveAdmin(t.Context(), "unix://"+path, profiles())
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("socket is %v, %v, want mode 0600", st, err)
		}
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
		}}
		response, err := client.Get("http://localhost/debug/pprof/goroutine?debug=1")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !strings.Contains(string(body), "goroutine profile") {
			t.Errorf("answer is %.100q, %v", body, err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		// A killed daemon leaves its socket.
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
}

func TestAdminLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := serveAdmin(t.Context(), "unix://"+path, profiles()); err == nil {
		t.Error("served over a file")
	}
}

func profiles() *http.ServeMux {
	mux := http.NewServeMux()
	addProfiles(mux)
	return mux
}

func TestHealth(t *testing.T) {
	good := check{"good", func(context.Context) error { return nil }}
	bad := check{"bad", func(context.Context) error { return errors.New("broken") }}
	for name, test := range map[string]struct {
		url    string
		checks []check
		code   int
		body   string
	}{
		"well":    {"/healthz", []check{good}, 200, "ok"},
		"verbose": {"/healthz?verbose", []check{good}, 200, "[+]good ok\nhealthz check passed\n"},
		"ill":     {"/healthz", []check{good, bad}, 500, "[+]good ok\n[-]bad failed: broken\nhealthz check failed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			health(test.checks).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, test.url, http.NoBody))
			if w.Code != test.code || w.Body.String() != test.body {
				t.Errorf("answer is %d %q", w.Code, w.Body)
			}
		})
	}
}
