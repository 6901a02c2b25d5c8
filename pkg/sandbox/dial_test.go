package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// echoIn listens inside a network namespace and echoes; the connections end
// with the test.
func echoIn(t *testing.T, ns Namespaces, address string) (port uint16) {
	t.Helper()
	var l net.Listener
	inside(t, ns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err
	})
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func echo(t *testing.T, s *Sandbox, port uint16) {
	t.Helper()
	conn, err := s.Dial(t.Context(), port)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	const want = "over there"
	if _, err := io.WriteString(conn, want); err != nil {
		t.Error(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestDial(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	defer n.clean(t, m)
	own := ready(t, m, "own", params("own"))
	p := params("host")
	p.HostNetwork = true
	host := ready(t, m, "host", p)
	defer remove(t, m, "host")

	for _, tc := range []struct{ name, address string }{{"v4", "127.0.0.1:0"}, {"v6", "[::1]:0"}, {"both", "[::]:0"}} {
		t.Run(tc.name, func(t *testing.T) {
			echo(t, own, echoIn(t, own.Status().Namespaces, tc.address))
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", tc.address)
			if err != nil {
				t.Fatal(err)
			}
			port := uint16(l.Addr().(*net.TCPAddr).Port)
			if conn, err := own.Dial(t.Context(), port); err == nil {
				_ = conn.Close()
				t.Error("the pod reaches the loopback of the host")
			} else if !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), fmt.Sprint(port)) {
				t.Error(err)
			}
			conn, err := host.Dial(t.Context(), port)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			_ = l.Close()
		})
	}
	t.Run("many", func(t *testing.T) {
		port := echoIn(t, own.Status().Namespaces, "127.0.0.1:0")
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() { echo(t, own, port) })
		}
		all.Wait()
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := own.Dial(ctx, fullPort(t, own.Status().Namespaces)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	remove(t, m, "own")
	if _, err := own.Dial(t.Context(), 80); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("dial of a removed sandbox: %v", err)
	}
}

// fullPort listens without ever accepting, and fills the queue.
func fullPort(t *testing.T, ns Namespaces) (port uint16) {
	t.Helper()
	inside(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
		if err := errors.Join(unix.Bind(fd, local), unix.Listen(fd, 0)); err != nil {
			return err
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		port = uint16(name.(*unix.SockaddrInet4).Port)
		for range 4 {
			c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = unix.Close(c) })
			if err := unix.Connect(c, name); err != nil && !errors.Is(err, unix.EINPROGRESS) {
				return err
			}
		}
		return nil
	})
	return port
}
