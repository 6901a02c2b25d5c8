package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPprof(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pprof.sock")
	// Twice, since the second daemon finds the first one's socket.
	for range 2 {
		stop, err := servePprof(t.Context(), path)
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

func TestPprofLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := servePprof(t.Context(), path); err == nil {
		t.Error("served over a file")
	}
}
