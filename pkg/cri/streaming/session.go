package streaming

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// Reasons for which a session ends before its work is done.
var (
	errClientLeft = errors.New("the client left")
	errIdle       = errors.New("the session was idle for too long")
	errStopping   = errors.New("cri-node is shutting down")
)

// session is one upgraded connection.
type session struct {
	config *Config
	log    klog.Logger
	link   *link // nil before the upgrade
	spdy   bool  // what is upgraded to, set before
	// group has the session's goroutines.
	group sync.WaitGroup
	// gone is closed when the client is.
	gone  chan struct{}
	leave func()
	// active is when data moved last, in nanoseconds since 1970.
	active atomic.Int64
}

func newSession(c *Config, log klog.Logger) *session {
	s := &session{config: c, log: log, gone: make(chan struct{})}
	s.leave = sync.OnceFunc(func() { close(s.gone) })
	s.touch()
	return s
}

// touch says that data moves.
func (s *session) touch() { s.active.Store(time.Now().UnixNano()) }

// run starts a goroutine of the session. A panic in it ends the session, not
// the daemon.
func (s *session) run(f func()) {
	s.group.Go(func() {
		defer s.recover()
		f()
	})
}

func (s *session) recover() {
	if p := recover(); p != nil {
		s.log.Error(nil, "A streaming session panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		s.leave()
		if s.link != nil {
			_ = s.link.Close()
		}
	}
}

// watch ends the session's connection when nothing moved for too long, and
// notices a client that left while its connection is not read, because what it
// sent waits for a reader. It returns when ctx ends.
func (s *session) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(min(s.config.watchInterval, s.config.IdleTimeout))
	defer tick.Stop()
	closed := 0
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if now.UnixNano()-s.active.Load() >= s.config.IdleTimeout.Nanoseconds() {
				cancel(errIdle)
				return
			}
			if !s.link.closedByPeer() {
				closed = 0
				continue
			}
			// Once may be while the last bytes are on their way to us.
			if closed++; closed >= 2 {
				s.leave()
				_ = s.link.Close()
				return
			}
		}
	}
}

// hijacker is a response whose connection becomes the link of a session.
type hijacker struct {
	http.ResponseWriter
	session *session
}

// Hijack takes the connection from the HTTP server.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // never reads
	h.session.link = newLink(conn, early)
	if h.session.spdy {
		h.session.link.frames = &spdyFrames{in: readerFunc(h.session.link.read)}
		h.session.link.whole = &frameWriter{out: writerFunc(h.session.link.write)}
	}
	return h.session.link, bufio.NewReadWriter(bufio.NewReader(h.session.link), bufio.NewWriter(h.session.link)), nil
}

// link is the connection below a session. The deadlines that protocol libraries
// set are ignored: a control frame that finds the connection busy must not end
// it.
type link struct {
	net.Conn
	early []byte // read by the HTTP server; of the only reader
	close func()
	// frames, if set, are read in place of the connection's bytes, and whole is
	// written to.
	frames *spdyFrames
	whole  *frameWriter
	// broken says that a write has failed.
	broken atomic.Bool
}

// readerFunc is a function that reads.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// writerFunc is a function that writes.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func newLink(conn net.Conn, early []byte) *link {
	// Closing twice is no error: the libraries do.
	return &link{Conn: conn, early: append([]byte(nil), early...), close: sync.OnceFunc(func() { _ = conn.Close() })}
}

// Read reads what the client sent.
func (l *link) Read(p []byte) (int, error) {
	if l.frames != nil {
		return l.frames.Read(p)
	}
	return l.read(p)
}

func (l *link) read(p []byte) (int, error) {
	if len(l.early) > 0 {
		n := copy(p, l.early)
		l.early = l.early[n:]
		return n, nil
	}
	return l.Conn.Read(p)
}

// Write sends to the client.
func (l *link) Write(p []byte) (int, error) {
	if l.whole != nil {
		return l.whole.Write(p)
	}
	return l.write(p)
}

func (l *link) write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if err != nil {
		l.broken.Store(true)
	}
	return n, err
}

// usable reports whether a stream of the connection may be written to once its
// reply is said to be sent. That is said also of a reply that could not be
// sent, and then a write would wait for it for ever.
func (l *link) usable(conn httpstream.Connection) bool {
	select {
	case <-conn.CloseChan():
		return false
	default:
		return !l.broken.Load()
	}
}

// Close closes the connection, and with it ends blocked reads and writes. It does
// not fail: TLS does for a client that left and hears no goodbye, and with such an
// error the SPDY library keeps a goroutine for a second, for somebody to ask.
func (l *link) Close() error {
	l.close()
	return nil
}

// SetDeadline is ignored.
func (l *link) SetDeadline(time.Time) error { return nil }

// SetReadDeadline is ignored.
func (l *link) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is ignored.
func (l *link) SetWriteDeadline(time.Time) error { return nil }

// limitWrites makes all writes fail that are not done in time.
func (l *link) limitWrites(d time.Duration) {
	_ = l.Conn.SetWriteDeadline(time.Now().Add(d)) // fails where they do already
}

// closedByPeer asks the kernel whether the other end has closed the connection,
// even if it sent more before than we have read.
func (l *link) closedByPeer() bool {
	conn := l.Conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		closed = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return closed || err != nil
}
