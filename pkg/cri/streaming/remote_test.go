package streaming

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/spdystream/spdy"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

func TestExecStreams(t *testing.T) {
	s := serve(t, impatient(), &fakeRuntime{exec: cat})
	for _, e := range []executor{
		spdyOf("v4.channel.k8s.io"), spdyOf("v3.channel.k8s.io"), spdyOf("v2.channel.k8s.io"), webSocket,
	} {
		t.Run(e.name, func(t *testing.T) {
			for _, size := range []int{0, 1, 100_000, 3 << 20} {
				data := make([]byte, size)
				rand.NewChaCha8([32]byte{}).Read(data)
				link := must1(t)(s.Exec(Exec{Wants: Wants{Stdin: true, Stdout: true, Stderr: true}}))
				sum := sha256.New()
				var stderr bytes.Buffer
				o := remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: sum, Stderr: &stderr}
				if err := e.stream(t.Context(), t, link, o); err != nil {
					t.Fatal(err)
				}
				if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
					t.Errorf("%d bytes came back different", size)
				}
				if got, want := stderr.String(), fmt.Sprintf("%d bytes", size); got != want {
					t.Errorf("stderr is %q, want %q", got, want)
				}
			}
		})
	}
}

func must1(t testing.TB) func(string, error) string {
	return func(s string, err error) string { return must(t, s, err) }
}

func TestExecEnds(t *testing.T) {
	type end struct {
		code int
		err  error
	}
	ends := map[string]end{"ok": {}, "three": {code: 3}, "signal": {code: 137}, "broken": {err: errors.New("no such program")}}
	s := serve(t, impatient(), &fakeRuntime{exec: func(_ context.Context, e Exec, s Streams) (int, error) {
		if e.Command[0] == "panic" {
			panic("on purpose")
		}
		_, err := io.WriteString(s.Stdout, "said")
		return ends[e.Command[0]].code, errors.Join(err, ends[e.Command[0]].err)
	}})
	eachExecutor(t, func(t *testing.T, e executor) {
		for name, want := range ends {
			var out bytes.Buffer
			err := e.stream(t.Context(), t, must1(t)(s.Exec(Exec{Command: []string{name}, Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: &out})
			var code utilexec.CodeExitError
			switch {
			case want.err != nil && (err == nil || !strings.Contains(err.Error(), want.err.Error())):
				t.Errorf("%s: %v", name, err)
			case want.code != 0 && (!errors.As(err, &code) || code.Code != want.code):
				t.Errorf("%s: %v", name, err)
			case want == end{} && err != nil:
				t.Errorf("%s: %v", name, err)
			}
			if out.String() != "said" {
				t.Errorf("%s: output %q", name, out.String())
			}
		}
		// The session is lost, the server is not.
		if err := e.stream(t.Context(), t, must1(t)(s.Exec(Exec{Command: []string{"panic"}, Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
			t.Error("a panic is no error")
		}
	})
	// The oldest may miss an error.
	var out bytes.Buffer
	if err := spdyOf("channel.k8s.io").stream(t.Context(), t, must1(t)(s.Exec(Exec{Command: []string{"ok"}, Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "said" {
		t.Errorf("v1: %v, output %q", err, out.String())
	}
	// Old clients get text.
	for _, protocol := range []string{"v3.channel.k8s.io", "v2.channel.k8s.io"} {
		err := spdyOf(protocol).stream(t.Context(), t, must1(t)(s.Exec(Exec{Command: []string{"three"}, Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "exit code: 3") {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

// sizes is a queue of terminal sizes.
type sizes chan remotecommand.TerminalSize

func (q sizes) Next() *remotecommand.TerminalSize {
	if s, ok := <-q; ok {
		return &s
	}
	return nil
}

func TestResize(t *testing.T) {
	s := serve(t, impatient(), &fakeRuntime{exec: func(_ context.Context, _ Exec, s Streams) (int, error) {
		for size := range s.Resize { // ends when the client says no more
			if _, err := fmt.Fprintf(s.Stdout, "%dx%d\n", size.Width, size.Height); err != nil {
				return 0, err
			}
			if size.Width == 9 {
				break
			}
		}
		return 0, nil
	}})
	eachExecutor(t, func(t *testing.T, e executor) {
		queue := make(sizes)
		defer close(queue)
		var out syncBuffer
		done := make(chan error, 1)
		go func() {
			done <- e.stream(t.Context(), t, must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true, TTY: true}})), remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: queue})
		}()
		for i, size := range []remotecommand.TerminalSize{{Width: 80, Height: 25}, {Width: 65535, Height: 1}, {Width: 9, Height: 9}} {
			queue <- size
			eventually(t, "output", func() bool { return strings.Count(out.String(), "\n") == i+1 })
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != "80x25\n65535x1\n9x9\n" {
			t.Errorf("got %q", got)
		}
	})
}

// TestClientLeaves ends the streams at once and the work after a grace, also
// where the work does not read what the client sent.
func TestClientLeaves(t *testing.T) {
	eachExecutor(t, func(t *testing.T, e executor) {
		for _, reads := range []bool{true, false} {
			t.Run(fmt.Sprint("reads ", reads), func(t *testing.T) {
				var resized, wrote, cancelled atomic.Bool
				begun := make(chan struct{})
				s := serve(t, impatient(), &fakeRuntime{exec: func(ctx context.Context, _ Exec, s Streams) (int, error) {
					_, _ = io.WriteString(s.Stdout, "x")
					close(begun)
					if reads {
						_, _ = io.Copy(io.Discard, s.Stdin)
					}
					for range s.Resize {
					}
					resized.Store(true)
					for {
						if _, err := s.Stdout.Write(make([]byte, 1024)); err != nil {
							break
						}
					}
					wrote.Store(true)
					<-ctx.Done()
					cancelled.Store(errors.Is(context.Cause(ctx), errClientLeft))
					return 0, context.Cause(ctx)
				}})
				far, leave := between(t, s)
				stdin, typist := io.Pipe()
				defer typist.Close()
				go func() {
					for {
						if _, err := typist.Write(make([]byte, 64<<10)); err != nil {
							return
						}
					}
				}()
				defer stdin.Close()
				done := make(chan error, 1)
				go func() {
					done <- e.stream(t.Context(), t, far(s.Exec(Exec{Wants: Wants{Stdin: true, Stdout: true, TTY: true}})), remotecommand.StreamOptions{Stdin: stdin, Stdout: io.Discard, Tty: true})
				}()
				<-begun
				time.AfterFunc(300*time.Millisecond, leave) // buffers on the way are full
				<-done                                      // to a client of SPDY a lost connection is no error
				eventually(t, "the end of the work", cancelled.Load)
				if !resized.Load() || !wrote.Load() {
					t.Error("the streams did not end first")
				}
			})
		}
	})
}

// TestSilentClient ends with Stop, though it reads nothing.
func TestSilentClient(t *testing.T) {
	eachExecutor(t, func(t *testing.T, e executor) {
		begun := make(chan struct{})
		s := serve(t, impatient(), &fakeRuntime{exec: func(_ context.Context, _ Exec, s Streams) (int, error) {
			close(begun)
			_, err := io.Copy(s.Stdout, zeros{})
			return 0, err
		}})
		block := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- e.stream(t.Context(), t, must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: blockingWriter(block)})
		}()
		<-begun
		time.AfterFunc(200*time.Millisecond, func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			close(block)
		})
		<-done // to a client of SPDY a lost connection is no error
		if _, err := s.Exec(Exec{}); err == nil {
			t.Error("a stopped server issues URLs")
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type blockingWriter chan struct{}

func (b blockingWriter) Write(p []byte) (int, error) { <-b; return len(p), nil }

func TestStopTells(t *testing.T) {
	eachExecutor(t, func(t *testing.T, e executor) {
		begun := make(chan struct{})
		s := serve(t, impatient(), &fakeRuntime{attach: func(ctx context.Context, _ Attach, _ Streams) error {
			close(begun)
			<-ctx.Done()
			return context.Cause(ctx)
		}})
		done := make(chan error, 1)
		go func() {
			done <- e.stream(t.Context(), t, must1(t)(s.Attach(Attach{Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: io.Discard})
		}()
		<-begun
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "shutting down") {
			t.Error(err)
		}
	})
}

func TestIdle(t *testing.T) {
	c := impatient()
	c.IdleTimeout = 400 * time.Millisecond
	s := serve(t, c, &fakeRuntime{exec: func(ctx context.Context, _ Exec, s Streams) (int, error) {
		for range 10 { // not idle
			time.Sleep(100 * time.Millisecond) // the test is about time
			if _, err := io.WriteString(s.Stdout, "."); err != nil {
				return 0, err
			}
		}
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}})
	eachExecutor(t, func(t *testing.T, e executor) {
		var out syncBuffer
		err := e.stream(t.Context(), t, must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}})), remotecommand.StreamOptions{Stdout: &out})
		if err == nil || !strings.Contains(err.Error(), "idle") || out.String() != ".........." {
			t.Errorf("%v, output %q", err, out.String())
		}
	})
}

// TestURLs are good once, for one kind of URL.
func TestURLs(t *testing.T) {
	s := serve(t, impatient(), &fakeRuntime{exec: func(_ context.Context, _ Exec, _ Streams) (int, error) { return 0, nil }})
	get := func(link string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, link, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	defer http.DefaultClient.CloseIdleConnections()
	link := must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}}))
	if got := get(strings.Replace(link, "/exec/", "/attach/", 1)); got != http.StatusNotFound {
		t.Errorf("exec as attach: %d", got)
	}
	if got := get(link); got != http.StatusNotFound {
		t.Errorf("after its use: %d", got)
	}
	if got := get(must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}}))); got != http.StatusBadRequest {
		t.Errorf("without upgrade: %d", got)
	}
	for _, path := range []string{"/", "/exec", "/exec/", "/exec/x", "/exec/x/y", "/debug/pprof"} {
		if got := get("http://" + s.base.Host + path); got != http.StatusNotFound {
			t.Errorf("%s: %d", path, got)
		}
	}
	link = must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}}))
	if err := webSocket.stream(t.Context(), t, link, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
		t.Error(err)
	}
	if err := webSocket.stream(t.Context(), t, link, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
		t.Error("a URL works twice")
	}
}

// TestClientLeavesUnanswered is about a client that is gone before it could be
// told that its streams are accepted: the session ends all the same.
func TestClientLeavesUnanswered(t *testing.T) {
	s := serve(t, impatient(), &fakeRuntime{exec: func(_ context.Context, _ Exec, s Streams) (int, error) {
		_, err := io.WriteString(s.Stdout, "said")
		return 0, err
	}})
	for range 300 {
		leaveUnanswered(t, s, must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}})))
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		panic("a session does not end") // nor would the test
	}
}

// leaveUnanswered asks for the streams of an exec and breaks the connection.
func leaveUnanswered(t *testing.T, s *Server, link string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.base.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetLinger(0)
	var request bytes.Buffer
	fmt.Fprintf(&request, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", strings.TrimPrefix(link, "http://"+s.base.Host))
	if _, err := conn.Write(request.Bytes()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 4<<10)); err != nil { // the server has upgraded the connection
		t.Fatal(err)
	}
	request.Reset()
	framer, err := spdy.NewFramer(&request, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	for i, kind := range []string{"error", "stdout"} {
		if err := framer.WriteFrame(&spdy.SynStreamFrame{StreamId: spdy.StreamId(2*i + 1), Headers: http.Header{"Streamtype": {kind}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(request.Bytes()); err != nil {
		t.Fatal(err)
	}
}
