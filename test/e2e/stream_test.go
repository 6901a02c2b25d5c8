package e2e

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
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamClient is one of the protocols clients speak.
type streamClient string

const (
	overSPDY      streamClient = "SPDY"
	overWebSocket streamClient = "WebSocket"
)

func eachClient(e *env, test func(e *env, c streamClient)) {
	for _, c := range []streamClient{overSPDY, overWebSocket} {
		e.Run(string(c), func(t *testing.T) { test(e.in(t), c) })
	}
}

// run streams to and from a URL until the session ends.
func (c streamClient) run(ctx context.Context, link string, o remotecommand.StreamOptions) error {
	u, err := url.Parse(link)
	if err != nil {
		return err
	}
	config := &rest.Config{Host: u.Host}
	var x remotecommand.Executor
	if c == overWebSocket {
		x, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, link)
	} else {
		x, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	}
	if err != nil {
		return err
	}
	return x.StreamWithContext(ctx, o)
}

// execURL asks for the streams that are set.
func (e *env) execURL(id string, o remotecommand.StreamOptions, command ...string) (string, error) {
	r, err := e.node.Raw.Exec(e.Context(), &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: command, Tty: o.Tty, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
	})
	return r.GetUrl(), err
}

func (e *env) stream(c streamClient, id string, o remotecommand.StreamOptions, command ...string) error {
	e.Helper()
	link, err := e.execURL(id, o, command...)
	if err != nil {
		return err
	}
	return c.run(e.Context(), link, o)
}

// attach is the same with the container's own process.
func (e *env) attach(c streamClient, id string, o remotecommand.StreamOptions) error {
	e.Helper()
	r, err := e.node.Raw.Attach(e.Context(), &runtimeapi.AttachRequest{
		ContainerId: id, Tty: o.Tty, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
	})
	if err != nil {
		return err
	}
	return c.run(e.Context(), r.Url, o)
}

func exitCode(err error) int {
	if exit, ok := errors.AsType[utilexec.CodeExitError](err); ok {
		return exit.Code
	}
	return -1
}

// screen is output that can be looked at while it grows.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) has(text string) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !strings.Contains(s.b.String(), text) {
			return fmt.Errorf("output is %q, want %q", s.b.String(), text)
		}
		return nil
	}
}

type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	if s, ok := <-q; ok {
		return &s
	}
	return nil
}

func TestStreamExec(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		c := e.start(e.runPod(handler), "c", []string{"sleep", "1000"})
		eachClient(e, func(e *env, client streamClient) {
			var out, errs bytes.Buffer
			err := e.stream(client, c.id, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}, "sh", "-c", "echo out; echo err >&2; exit 7")
			equal(e, "exit code", exitCode(err), 7)
			equal(e, "stdout", out.String(), "out\n")
			equal(e, "stderr", errs.String(), "err\n")
			err = e.stream(client, c.id, remotecommand.StreamOptions{Stdout: io.Discard}, "sh", "-c", "kill -9 $$")
			equal(e, "exit code of a signal", exitCode(err), 137)
			err = e.stream(client, c.id, remotecommand.StreamOptions{Stdout: io.Discard}, "/no/such/program")
			if err == nil {
				e.Error("a missing program is no error")
			}
			// The end of the input reaches the process, and nothing is lost.
			data := make([]byte, 5<<20)
			rand.NewChaCha8([32]byte{1}).Read(data)
			sum := sha256.New()
			e.must(e.stream(client, c.id, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: sum}, "cat"))
			want := sha256.Sum256(data)
			equal(e, "checksum", fmt.Sprintf("%x", sum.Sum(nil)), fmt.Sprintf("%x", want))
		})
	})
}

func TestStreamTerminal(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		c := e.start(e.runPod(handler), "c", []string{"sleep", "1000"})
		eachClient(e, func(e *env, client streamClient) {
			in, typist := io.Pipe()
			defer typist.Close()
			sizes := make(sizeQueue, 1)
			defer close(sizes)
			sizes <- remotecommand.TerminalSize{Width: 81, Height: 26}
			out := &screen{}
			done := make(chan error, 1)
			go func() {
				done <- e.stream(client, c.id, remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true, TerminalSizeQueue: sizes}, "sh")
			}()
			say := func(line string) {
				if _, err := io.WriteString(typist, line+"\n"); err != nil {
					e.Error(err)
				}
			}
			say("echo term=$TERM; tty")
			e.eventually(10*time.Second, out.has("term=xterm\r\n/dev/pts/"))
			sizes <- remotecommand.TerminalSize{Width: 132, Height: 43}
			e.eventually(10*time.Second, func() error {
				say("stty size")
				return out.has("\r\n43 132\r\n")()
			})
			say("exit 3") // the input stays open
			equal(e, "exit code", exitCode(<-done), 3)
		})
	})
}

// TestStreamClientLeaves ends what ran for it.
func TestStreamClientLeaves(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		c := e.start(e.runPod(handler), "c", []string{"sleep", "1000"})
		eachClient(e, func(e *env, client streamClient) {
			for _, tty := range []bool{false, true} {
				o := remotecommand.StreamOptions{Stdout: io.Discard, Tty: tty}
				link, err := e.execURL(c.id, o, "sleep", "777")
				e.must(err)
				ctx, leave := context.WithCancel(e.Context())
				done := make(chan error, 1)
				go func() { done <- client.run(ctx, link, o) }()
				running := func() bool { return strings.Contains(e.exec(c.id, "ps"), "sleep 777") }
				e.eventually(10*time.Second, func() error {
					if !running() {
						return errors.New("the process does not run")
					}
					return nil
				})
				leave()
				<-done
				e.eventually(20*time.Second, func() error {
					if running() {
						return errors.New("the process still runs")
					}
					return nil
				})
			}
		})
	})
}

func TestStreamAttach(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		eachClient(e, func(e *env, client streamClient) {
			once := e.start(p, "once-"+string(client), []string{"sh", "-c", "cat; echo over >&2"}, func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
			var out, errs bytes.Buffer
			e.must(e.attach(client, once.id, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs}))
			equal(e, "stdout", out.String(), "hello")
			equal(e, "stderr", errs.String(), "over\n")
			e.await(once.id, runtimeapi.ContainerState_CONTAINER_EXITED, 10*time.Second)

			tty := e.start(p, "tty-"+string(client), []string{"sh"}, func(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true })
			in, typist := io.Pipe()
			defer typist.Close()
			shown := &screen{}
			done := make(chan error, 1)
			go func() {
				done <- e.attach(client, tty.id, remotecommand.StreamOptions{Stdin: in, Stdout: shown, Tty: true})
			}()
			_, err := io.WriteString(typist, "echo six=$((2*3))\n")
			e.must(err)
			e.eventually(10*time.Second, shown.has("six=6"))
			_, err = io.WriteString(typist, "exit\n")
			e.must(err)
			e.must(<-done)
		})
	})
}

// forwardPorts opens a session; address is where its end is here.
func (e *env) forwardPorts(c streamClient, p *pod, port int) (address string, ended <-chan error) {
	e.Helper()
	r, err := e.node.Raw.PortForward(e.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id})
	e.must(err)
	u, err := url.Parse(r.Url)
	e.must(err)
	config := &rest.Config{Host: u.Host}
	var stop, ready, done = make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var forwarder *portforward.PortForwarder
	ports := []string{fmt.Sprintf("0:%d", port)}
	if c == overWebSocket {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(u, config)
		e.must(err)
		forwarder, err = portforward.New(dialer, ports, stop, ready, io.Discard, io.Discard)
		e.must(err)
	} else {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		e.must(err)
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
		forwarder, err = portforward.New(dialer, ports, stop, ready, io.Discard, io.Discard)
		e.must(err)
	}
	go func() { done <- forwarder.ForwardPorts() }()
	e.Cleanup(func() { close(stop) })
	select {
	case <-ready:
	case err := <-done:
		e.Fatal(err)
	}
	local, err := forwarder.GetPorts()
	e.must(err)
	return fmt.Sprintf("127.0.0.1:%d", local[0].Local), done
}

func TestStreamPortForward(t *testing.T) {
	e := onShared(t)
	own := e.runPod("")
	host := e.runPod("", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}
	})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	e.must(err)
	free := l.Addr().(*net.TCPAddr).Port
	e.must(l.Close())
	for _, tc := range []struct {
		name, address string
		port          int
		pod           *pod
	}{
		{"own", "127.0.0.1", 8080, own}, {"own6", "[::1]", 8081, own}, {"host", "127.0.0.1", free, host},
	} {
		c := e.start(tc.pod, tc.name, []string{"probe", "httpd", "-addr", fmt.Sprintf("%s:%d", tc.address, tc.port), "-body", tc.name})
		e.logHas(c, "listening")
		eachClient(e, func(e *env, client streamClient) {
			address, ended := e.forwardPorts(client, tc.pod, tc.port)
			var all sync.WaitGroup
			for i := range 200 {
				all.Go(func() {
					if i%20 == 7 { // one that breaks harms nobody
						conn, err := (&net.Dialer{}).DialContext(e.Context(), "tcp", address)
						if err == nil {
							_ = conn.(*net.TCPConn).SetLinger(0)
							_ = conn.Close()
						}
						return
					}
					if body, err := httpGet(address); err != nil || body != tc.name {
						e.Errorf("%s: %q, %v", tc.name, body, err)
					}
				})
			}
			all.Wait()
			select {
			case err := <-ended:
				e.Errorf("the session ended: %v", err)
			default:
			}
		})
	}
}

func TestStreamRequests(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	o := remotecommand.StreamOptions{Stdout: io.Discard}
	link, err := e.execURL(c.id, o, "true")
	e.must(err)
	if u, err := url.Parse(link); err != nil || u.Hostname() != "127.0.0.1" || len(u.Path) < 22 {
		e.Errorf("URL is %s, %v", link, err)
	}
	e.must(overWebSocket.run(t.Context(), link, o))
	if overWebSocket.run(t.Context(), link, o) == nil {
		e.Error("a URL works twice")
	}
	if log := e.node.LogFrom(0); strings.Contains(log, link[strings.LastIndex(link, "/")+1:]) {
		e.Error("the log has the token")
	}
	// What may wait for its client is bounded, and refused beyond that.
	flooded := false
	for range 1100 {
		if _, err := e.execURL(c.id, o, "true"); err != nil {
			flooded = strings.Contains(err.Error(), "ResourceExhausted")
			break
		}
	}
	if !flooded {
		e.Error("any number of URLs is issued")
	}
}
