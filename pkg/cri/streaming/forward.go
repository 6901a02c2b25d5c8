package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// maxForwards bounds the connections that one session forwards at a time.
const maxForwards = 4096

// dialer connects to a port of the pod of a session.
type dialer func(ctx context.Context, port uint16) (net.Conn, error)

// forward serves a port-forward from the upgrade to the end.
func (s *session) forward(w http.ResponseWriter, r *http.Request, ports []uint16, dial dialer) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer s.group.Wait()
	defer cancel(nil)
	defer func() {
		if s.link != nil {
			_ = s.link.Close()
		}
	}()
	w = &hijacker{w, s}
	if wantsWebSocket(r) && !slices.Contains(websocket.Subprotocols(r), portforward.WebsocketsSPDYTunnelingPortForwardV1) {
		return s.forwardChannels(ctx, cancel, channelForward{w: w, r: r, ports: ports, dial: dial})
	}
	f := &forwards{session: s, dial: dial, pairs: map[string]*pair{}}
	conn, err := f.open(ctx, w, r)
	if err != nil {
		return err
	}
	s.run(func() { s.watch(ctx, cancel) })
	select {
	case <-conn.CloseChan():
	case <-s.gone:
		err = errClientLeft
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.link.limitWrites(s.config.tellTime)
	cancel(nil) // ends the forwarded connections
	f.close()
	return err
}

// forwards are the forwarded connections of one session, over SPDY: each has a
// stream for its data and one for the error that kept it from being made.
type forwards struct {
	session *session
	dial    dialer
	conn    httpstream.Connection

	mu     sync.Mutex
	pairs  map[string]*pair // by the client's id for the connection
	closed bool
}

// pair are the streams of one forwarded connection. The lock of forwards guards
// what is nil at first.
type pair struct {
	data, errors httpstream.Stream
	port         uint16
	replies      []<-chan struct{}
	timer        *time.Timer // ends the wait for the second stream
}

func (p *pair) complete() bool { return p.data != nil && p.errors != nil }

// open upgrades the connection; streams are accepted from then on.
func (f *forwards) open(ctx context.Context, w http.ResponseWriter, r *http.Request) (httpstream.Connection, error) {
	f.mu.Lock() // accept must know the connection
	defer f.mu.Unlock()
	accept := func(stream httpstream.Stream, reply <-chan struct{}) error { return f.accept(ctx, stream, reply) }
	if wantsWebSocket(r) {
		t, err := f.session.openTunnel(w, r)
		if err != nil {
			return nil, err
		}
		f.conn, err = spdy.NewServerConnection(t, accept)
		return f.conn, err
	}
	if _, err := httpstream.Handshake(r, w, portforward.SupportedProtocols); err != nil {
		return nil, err // the client has been told
	}
	f.session.spdy = true
	f.conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, accept)
	if f.conn == nil {
		return nil, errors.New("upgrade connection to SPDY")
	}
	return f.conn, nil
}

// accept takes a stream of the client. It runs in the connection's reader and
// must not block.
func (f *forwards) accept(ctx context.Context, stream httpstream.Stream, reply <-chan struct{}) error {
	port, err := strconv.ParseUint(stream.Headers().Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return protocolError("%.20q is no port", stream.Headers().Get(portforward.PortHeader))
	}
	kind := stream.Headers().Get(portforward.StreamType)
	if kind != portforward.StreamTypeData && kind != portforward.StreamTypeError {
		return protocolError("%.20q is no type of stream", kind)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errors.New("the session is over")
	}
	id := requestID(stream, kind)
	p := f.pairs[id]
	if p == nil {
		if len(f.pairs) >= maxForwards {
			return protocolError("more than %d connections", maxForwards)
		}
		p = &pair{port: uint16(port)}
		p.timer = time.AfterFunc(f.session.config.openTime, func() { f.abandon(id, p) })
		f.pairs[id] = p
	}
	place := &p.data
	if kind == portforward.StreamTypeError {
		place = &p.errors
	}
	if *place != nil || uint64(p.port) != port {
		return protocolError("connection %.20q has its stream for %s already", id, kind)
	}
	*place = stream
	p.replies = append(p.replies, reply)
	if p.complete() {
		p.timer.Stop() // abandon does nothing any more
		f.session.run(func() {
			defer f.remove(id, p)
			f.serve(ctx, p)
		})
	}
	return nil
}

// requestID names the connection that a stream belongs to. Clients from before
// the header make the error stream first, and the data stream next.
func requestID(stream httpstream.Stream, kind string) string {
	id := stream.Headers().Get(portforward.PortForwardRequestIDHeader)
	if id != "" {
		return id
	}
	n := stream.Identifier()
	if kind == portforward.StreamTypeData {
		n -= 2
	}
	return strconv.FormatUint(uint64(n), 10)
}

// abandon gives up on a connection whose second stream did not come.
func (f *forwards) abandon(id string, p *pair) {
	f.mu.Lock()
	given := !f.closed && !p.complete() // close does what is left
	stream := p.data
	if stream == nil {
		stream = p.errors
	}
	if given {
		delete(f.pairs, id) // so that nothing joins it
		f.conn.RemoveStreams(stream)
	}
	f.mu.Unlock()
	if given {
		_ = stream.Reset()
	}
}

// remove forgets a connection that is over.
func (f *forwards) remove(id string, p *pair) {
	f.mu.Lock()
	f.conn.RemoveStreams(p.data, p.errors)
	if f.pairs[id] == p {
		delete(f.pairs, id)
	}
	f.mu.Unlock()
	// What was closed well is not told anything by this. But what the client sent
	// and nobody has read would be kept for a reader, for ever.
	_, _ = p.data.Reset(), p.errors.Reset()
}

// serve forwards one connection.
func (f *forwards) serve(ctx context.Context, p *pair) {
	for _, reply := range p.replies {
		select {
		case <-reply: // nothing may be sent before
		case <-ctx.Done():
			return
		}
	}
	if !f.session.link.usable(f.conn) {
		return // the client left
	}
	conn, err := f.dial(ctx, p.port)
	if err != nil {
		f.session.log.V(logForwards).Info("Port not forwarded", "port", p.port, "err", err)
		_, _ = fmt.Fprintf(p.errors, "forward port %d: %v", p.port, err) // best effort
		_ = p.errors.Close()
		_ = p.data.Reset()
		return
	}
	err = copyBoth(ctx, conn, p.data, f.session.touch)
	// What happens to a connection once it is made is between its ends: an
	// error here would make kubectl end the whole session (kubernetes#74551).
	if err != nil {
		f.session.log.V(logForwards).Info("Forwarded connection broke", "port", p.port, "err", err)
		_ = p.data.Reset()
	}
	_ = p.data.Close()
	_ = p.errors.Close()
}

// logForwards is the level at which single connections are logged.
const logForwards = 5

// copyBoth copies between a connection and a stream, in both directions, until
// both have ended or one is broken; an end in one direction is passed on alone.
// It closes the connection, and the stream for writing.
func copyBoth(ctx context.Context, conn net.Conn, stream io.ReadWriteCloser, touch func()) error {
	end := sync.OnceValue(conn.Close)
	defer context.AfterFunc(ctx, func() { _ = end() })()
	broken := make(chan error, 1)
	go func() {
		_, err := io.Copy(lively{Writer: conn, touch: touch}, stream)
		if err == nil {
			err = closeWrite(conn)
		}
		if err != nil {
			_ = end() // the client has nobody to talk to
		}
		broken <- err
	}()
	_, err := io.Copy(stream, lively{Reader: conn, touch: touch})
	if err == nil {
		err = stream.Close()
	}
	if err != nil {
		_ = end()
		if r, ok := stream.(interface{ Reset() error }); ok {
			_ = r.Reset() // ends the other direction
		}
	}
	err = errors.Join(err, <-broken)
	_ = end()
	return err
}

func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// close ends what is left, the connection included.
func (f *forwards) close() {
	f.mu.Lock()
	f.closed = true
	var streams []httpstream.Stream
	for _, p := range f.pairs {
		p.timer.Stop()
		streams = append(streams, p.data, p.errors)
	}
	f.mu.Unlock()
	_ = f.conn.Close()
	_ = f.session.link.Close()
	for _, stream := range streams {
		if stream != nil {
			_ = stream.Reset() // also one that the connection did not know yet
		}
	}
	<-f.conn.CloseChan()
}
