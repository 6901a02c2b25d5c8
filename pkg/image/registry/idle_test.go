package registry

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestCloseEndsConnections: the registry itself sees that nothing stays open
// once a session is closed, whichever way its hosts were configured.
func TestCloseEndsConnections(t *testing.T) {
	for _, configured := range []bool{false, true} {
		s := &server{Server: httptest.NewUnstartedServer(newServer(t, nil).Config.Handler)}
		var mu sync.Mutex
		open := map[net.Conn]bool{}
		closed := make(chan struct{}, 100)
		s.Config.ConnState = func(c net.Conn, state http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			switch state {
			case http.StateNew:
				open[c] = true
			case http.StateClosed:
				delete(open, c)
				closed <- struct{}{}
			default:
			}
		}
		s.Start()
		t.Cleanup(s.Server.Close)
		c := Config{}
		if configured {
			c.CertsDirs = []string{t.TempDir()}
			dir := filepath.Join(c.CertsDirs[0], s.host())
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte("[host.\"http://"+s.host()+"\"]\nskip_verify = true\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		session := session(t, c, s.host()+"/app", nil)
		if err := resolveAndFetch(t, session); err != nil {
			t.Fatal(err)
		}
		session.Close()
		deadline := time.After(10 * time.Second)
		for {
			mu.Lock()
			left := len(open)
			mu.Unlock()
			if left == 0 {
				break
			}
			select {
			case <-closed:
			case <-deadline:
				t.Fatalf("configured %v: %d connections stay open", configured, left)
			}
		}
	}
}
