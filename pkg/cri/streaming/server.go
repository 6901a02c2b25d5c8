package streaming

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
)

// Config of a Server.
type Config struct {
	// Address to listen on, one of the loopback interface unless TLS is set.
	Address string
	// Port to listen on; 0 is any that is free.
	Port uint16
	// IdleTimeout ends sessions in which no data moved for that long. 4 hours if
	// it is 0.
	IdleTimeout time.Duration
	// TLS, where it has a certificate, is what connections are secured with.
	TLS TLS

	// openTime is how long a client may take to make its streams, leaveGrace how
	// long a process may outlive its client, tellTime how long telling a client
	// about the end may take, linger how long the client may then take to close
	// the connection, watchInterval how often its presence is checked. Tests
	// shorten them.
	openTime, leaveGrace, tellTime, linger, watchInterval time.Duration
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field   *time.Duration
		initial time.Duration
	}{
		{&c.IdleTimeout, 4 * time.Hour},
		{&c.openTime, 30 * time.Second},
		{&c.leaveGrace, 10 * time.Second},
		{&c.tellTime, 2 * time.Second},
		{&c.linger, 2 * time.Second},
		{&c.watchInterval, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.initial
		}
	}
}

const (
	headerTime     = 10 * time.Second // for the header of a request
	maxHeader      = 64 << 10
	keepOpen       = time.Minute // of connections between requests
	logSessions    = 2
	kindExec       = "exec"
	kindAttach     = "attach"
	kindForward    = "portforward"
	pathValueToken = "token"
)

// Server issues URLs and serves them.
type Server struct {
	config   Config
	listener net.Listener
	base     url.URL
	tokens   *tokens
	http     *http.Server
	runtime  Runtime // set by Serve

	mu       sync.Mutex
	stopping bool
	sessions sync.WaitGroup // of those that began before stopping
	end      context.CancelCauseFunc
}

// Listen opens the listener, so that URLs can be issued. The caller must call
// Serve, and then Stop, or Stop alone.
func Listen(ctx context.Context, c Config) (*Server, error) {
	c.setDefaults()
	address := net.JoinHostPort(c.Address, strconv.Itoa(int(c.Port)))
	ip := net.ParseIP(c.Address)
	if ip == nil {
		return nil, fmt.Errorf("listen for streaming on %s: %q is no IP address: %w", address, c.Address, errdefs.ErrInvalidArgument)
	}
	if !ip.IsLoopback() && !c.TLS.enabled() {
		return nil, fmt.Errorf("listen for streaming on %s: other machines reach it, which takes TLS: %w", address, errdefs.ErrInvalidArgument)
	}
	config, err := c.TLS.config(klog.FromContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("listen for streaming on %s: %w", address, err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for streaming: %w", err)
	}
	s := &Server{config: c, listener: listener, tokens: newTokens(), end: func(error) {}}
	s.base = url.URL{Scheme: "http", Host: clientAddress(listener.Addr())}
	mux := http.NewServeMux()
	for _, kind := range []string{kindExec, kindAttach, kindForward} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			mux.HandleFunc(method+" /"+kind+"/{"+pathValueToken+"}", func(w http.ResponseWriter, r *http.Request) { s.serve(kind, w, r) })
		}
	}
	s.http = &http.Server{
		Handler:           mux,
		TLSConfig:         config,
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    maxHeader,
		IdleTimeout:       keepOpen,
		ErrorLog:          log.New(httpLog{klog.FromContext(ctx)}, "", 0),
	}
	if config != nil {
		s.base.Scheme = "https"
	}
	return s, nil
}

// clientAddress is where a client on this machine finds a listener that may be
// on all addresses.
func clientAddress(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	host := "127.0.0.1"
	if tcp.IP.To4() == nil {
		host = "::1"
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// httpLog takes what the HTTP server says, which is about clients that do not
// speak HTTP.
type httpLog struct{ klog.Logger }

// Write logs a line.
func (l httpLog) Write(p []byte) (int, error) {
	l.V(logForwards).Info("HTTP server", "message", string(p))
	return len(p), nil
}

// Serve serves the URLs until Stop is called.
func (s *Server) Serve(ctx context.Context, r Runtime) error {
	s.mu.Lock()
	s.runtime = r
	ctx, s.end = context.WithCancelCause(ctx)
	defer s.end(nil)
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	stopped := s.stopping
	s.mu.Unlock()
	if stopped {
		return nil
	}
	var err error
	if s.http.TLSConfig != nil {
		err = s.http.ServeTLS(s.listener, "", "")
	} else {
		err = s.http.Serve(s.listener)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve streaming: %w", err)
	}
	s.sessions.Wait() // they need ctx
	return nil
}

// Stop ends all sessions, tells their clients, and waits for them to be over.
func (s *Server) Stop() error {
	s.mu.Lock()
	s.stopping = true
	end := s.end
	s.mu.Unlock()
	end(errStopping)
	err := errors.Join(s.http.Close(), ignoreClosed(s.listener.Close()))
	s.sessions.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Exec returns the URL of a command to run.
func (s *Server) Exec(e Exec) (string, error) { return s.issue(kindExec, e) }

// Attach returns the URL of a container to attach to.
func (s *Server) Attach(a Attach) (string, error) { return s.issue(kindAttach, a) }

// PortForward returns the URL of a pod to forward connections to.
func (s *Server) PortForward(p PortForward) (string, error) { return s.issue(kindForward, p) }

func (s *Server) issue(kind string, request any) (string, error) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		return "", fmt.Errorf("%w: %w", errStopping, errdefs.ErrUnavailable)
	}
	token, err := s.tokens.issue(request)
	if err != nil {
		return "", err
	}
	return s.base.JoinPath(kind, token).String(), nil
}

// begin counts a session, unless the server stops.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.sessions.Add(1)
	return true
}

// serve serves one URL: a token is good for one use, right or wrong.
func (s *Server) serve(kind string, w http.ResponseWriter, r *http.Request) {
	request, ok := s.tokens.spend(r.PathValue(pathValueToken))
	if !ok {
		http.NotFound(w, r)
		return
	}
	if !s.begin() {
		http.Error(w, errStopping.Error(), http.StatusServiceUnavailable)
		return
	}
	defer s.sessions.Done()
	var run func(*session) error
	logger := klog.FromContext(r.Context()).WithValues("stream", kind)
	switch q := request.(type) {
	case Exec:
		ok = kind == kindExec
		logger = logger.WithValues("containerID", q.ContainerID)
		run = func(ses *session) error {
			return ses.remote(w, r, remoteWork{wants: q.Wants, grace: s.config.leaveGrace, run: func(ctx context.Context, streams Streams) (int, error) {
				return s.runtime.Exec(ctx, q, streams)
			}})
		}
	case Attach:
		ok = kind == kindAttach
		logger = logger.WithValues("containerID", q.ContainerID)
		run = func(ses *session) error {
			return ses.remote(w, r, remoteWork{wants: q.Wants, run: func(ctx context.Context, streams Streams) (int, error) {
				return 0, s.runtime.Attach(ctx, q, streams)
			}})
		}
	case PortForward:
		ok = kind == kindForward
		logger = logger.WithValues("sandboxID", q.SandboxID)
		run = func(ses *session) error {
			return ses.forward(w, r, q.Ports, func(ctx context.Context, port uint16) (net.Conn, error) {
				return s.runtime.Dial(ctx, q.SandboxID, port)
			})
		}
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	ses := newSession(&s.config, logger)
	defer ses.recover()
	begin := time.Now()
	err := run(ses)
	logger.V(logSessions).Info("Streaming session ended", "duration", time.Since(begin), "err", err)
}
