package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Of the client, which leaves it behind for a moment.
		goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"),
		// Also of the client, whose connections fail to close where ours do not
		// (link.Close): it waits a second for somebody to ask for that error. A
		// server's that does not end at all has its Serve to show for it.
		goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}

// fakeRuntime does what functions say. Its pods are this machine.
type fakeRuntime struct {
	exec   func(ctx context.Context, e Exec, s Streams) (int, error)
	attach func(ctx context.Context, a Attach, s Streams) error
}

func (f *fakeRuntime) Exec(ctx context.Context, e Exec, s Streams) (int, error) {
	return f.exec(ctx, e, s)
}

func (f *fakeRuntime) Attach(ctx context.Context, a Attach, s Streams) error {
	return f.attach(ctx, a, s)
}

func (f *fakeRuntime) Dial(ctx context.Context, _ string, port uint16) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// impatient is a configuration in which all waiting is short.
func impatient() Config {
	return Config{
		Address:  "127.0.0.1",
		openTime: 30 * time.Second, leaveGrace: 200 * time.Millisecond, tellTime: 300 * time.Millisecond,
		linger: 500 * time.Millisecond, watchInterval: 50 * time.Millisecond,
	}
}

// serve runs a server until the end of the test.
func serve(t *testing.T, c Config, r Runtime) *Server {
	t.Helper()
	s, err := Listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.WithoutCancel(t.Context()), r) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Stop(), <-served); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// executor makes clients of one kind.
type executor struct {
	name string
	open func(*rest.Config, *url.URL) (remotecommand.Executor, error)
}

func spdyOf(protocol string) executor {
	return executor{"SPDY " + protocol, func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		transport, upgrader, err := spdyRoundTripper(c)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, "POST", u, protocol)
	}}
}

var webSocket = executor{"WebSocket v5", func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(c, "GET", u.String())
}}

// eachExecutor runs a test with both of today's protocols.
func eachExecutor(t *testing.T, test func(*testing.T, executor)) {
	for _, e := range []executor{spdyOf("v4.channel.k8s.io"), webSocket} {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// stream opens a URL and runs the session to its end.
func (e executor) stream(ctx context.Context, t testing.TB, link string, o remotecommand.StreamOptions) error {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	x, err := e.open(&rest.Config{Host: u.Host, TLSClientConfig: rest.TLSClientConfig{Insecure: u.Scheme == "https"}}, u)
	if err != nil {
		t.Fatal(err)
	}
	return x.StreamWithContext(ctx, o)
}

// syncBuffer is a buffer that several goroutines use.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// cat copies stdin to stdout and says on stderr how much.
func cat(_ context.Context, _ Exec, s Streams) (int, error) {
	n, err := io.Copy(s.Stdout, s.Stdin)
	if err == nil && s.Stderr != nil {
		_, err = fmt.Fprintf(s.Stderr, "%d bytes", n)
	}
	return 0, err
}

// between puts a proxy between a server and its clients: far makes a URL lead
// through it, and leave breaks all connections. A client cannot do that itself
// while it waits to be read from.
func between(t *testing.T, s *Server) (far func(string, error) string, leave func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				up, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.base.Host)
				if err == nil {
					// As of a process that is no more: what it had still to
					// send does not keep the end of the connection back.
					_ = up.(*net.TCPConn).SetLinger(0)
					_ = copyBoth(ctx, up, conn, func() {})
				}
				_ = conn.Close()
			})
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); work.Wait() })
	return func(link string, err error) string {
		return strings.Replace(must(t, link, err), s.base.Host, l.Addr().String(), 1)
	}, cancel
}
