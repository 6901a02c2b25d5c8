package notify

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// listen plays the service manager and returns what reads its next message.
func listen(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestMessages(t *testing.T) {
	path, next := listen(t)
	t.Setenv("NOTIFY_SOCKET", path)
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
		t.Error("children would inherit NOTIFY_SOCKET")
	}
	for _, test := range []struct {
		send func() error
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Reloading, "RELOADING=1\nMONOTONIC_USEC="},
		{n.Stopping, "STOPPING=1"},
	} {
		if err := test.send(); err != nil {
			t.Fatal(err)
		}
		if got := next(); !strings.HasPrefix(got, test.want) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestWithoutServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Ready(), n.Reloading(), n.Stopping()); err != nil {
		t.Error(err)
	}
	n.RunWatchdog(t.Context(), func(context.Context) error { t.Error("probed"); return nil }, nil)
}

func TestBadWatchdogInterval(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := New(); err == nil {
		t.Error("accepted")
	}
}

func TestWatchdogIsFedOnlyWhileTheProbeSucceeds(t *testing.T) {
	path, next := listen(t)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	var mu sync.Mutex
	var fail error
	reported := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		n.RunWatchdog(ctx, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return fail
		}, func(err error) {
			select {
			case reported <- err:
			default:
			}
		})
	})
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	mu.Lock()
	fail = broken
	mu.Unlock()
	if err := <-reported; !errors.Is(err, broken) {
		t.Errorf("reported %v", err)
	}
	cancel()
	running.Wait()
}
