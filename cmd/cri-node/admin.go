package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// healthTimeout bounds one check of /healthz.
const healthTimeout = 10 * time.Second

// check is one part of the daemon's health.
type check struct {
	name string
	do   func(ctx context.Context) error
}

// serveAdmin serves what people and tools look into the daemon with, at
// unix:///PATH, which only root can open, or at a loopback address. The caller
// must call stop, which ends requests under way and waits for the server.
//
//	curl --unix-socket PATH http://localhost/metrics
func serveAdmin(ctx context.Context, address string, mux *http.ServeMux) (stop func() error, err error) {
	listener, err := listenAdmin(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("admin.address: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		err := server.Close()
		if served := <-served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}

func listenAdmin(ctx context.Context, address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
		// Left by an earlier daemon: the lock on the root directory says that
		// none is alive.
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// addProfiles serves Go's profiles.
func addProfiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// health answers as the components of Kubernetes do: "ok", or with ?verbose a
// line for each check, and 500 with those lines where one fails. Causes go to
// the log, not to whoever asks.
func health(checks []check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		var lines strings.Builder
		healthy := true
		for _, c := range checks {
			if err := c.do(ctx); err != nil {
				healthy = false
				klog.FromContext(ctx).Error(err, "Not healthy", "check", c.name)
				fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.name, err)
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", c.name)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, verbose := r.URL.Query()["verbose"]
		switch {
		case !healthy:
			w.WriteHeader(http.StatusInternalServerError)
			lines.WriteString("healthz check failed\n")
		case verbose:
			lines.WriteString("healthz check passed\n")
		default:
			lines.Reset()
			lines.WriteString("ok")
		}
		_, _ = io.WriteString(w, lines.String()) // who asked may have gone
	})
}
