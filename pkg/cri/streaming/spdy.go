package streaming

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// spdyRemote is an exec or attach over SPDY, where each stream of the process is
// one of the connection.
type spdyRemote struct {
	session  *session
	protocol string
	conn     httpstream.Connection
	resize   chan Size

	mu       sync.Mutex
	wanted   map[string]bool // by type
	got      map[string]httpstream.Stream
	closed   bool
	complete chan struct{} // closed when got has all that is wanted
	replies  []<-chan struct{}
}

// openSPDY upgrades the connection and waits for the client's streams. The
// caller must close the session's link even after an error.
func (s *session) openSPDY(ctx context.Context, w http.ResponseWriter, r *http.Request, wants Wants) (transport, error) {
	protocol, err := httpstream.Handshake(r, w, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return nil, err // the client has been told
	}
	t := &spdyRemote{
		session: s, protocol: protocol,
		wanted:   wantedStreams(protocol, wants),
		got:      map[string]httpstream.Stream{},
		complete: make(chan struct{}),
	}
	s.spdy = true
	t.conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, t.accept)
	if t.conn == nil {
		return nil, errors.New("upgrade connection to SPDY")
	}
	if err := t.await(ctx); err != nil {
		t.close()
		return nil, err
	}
	if resize := t.got[remotecommand.StreamTypeResize]; resize != nil {
		t.resize = make(chan Size, 1)
		s.run(func() { copySizes(t.resize, lively{Reader: resize, touch: s.touch}) })
	}
	return t, nil
}

func wantedStreams(protocol string, wants Wants) map[string]bool {
	wanted := map[string]bool{remotecommand.StreamTypeError: true}
	for name, want := range map[string]bool{
		remotecommand.StreamTypeStdin:  wants.Stdin,
		remotecommand.StreamTypeStdout: wants.Stdout,
		remotecommand.StreamTypeStderr: wants.Stderr,
		remotecommand.StreamTypeResize: wants.TTY &&
			(protocol == remotecommand.StreamProtocolV3Name || protocol == remotecommand.StreamProtocolV4Name),
	} {
		if want {
			wanted[name] = true
		}
	}
	return wanted
}

// accept takes a stream of the client. It runs in the connection's reader and
// must not block.
func (t *spdyRemote) accept(stream httpstream.Stream, reply <-chan struct{}) error {
	kind := stream.Headers().Get(remotecommand.StreamType)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errors.New("the session is over")
	case !t.wanted[kind]:
		return protocolError("a stream of type %.20q was not asked for", kind)
	case t.got[kind] != nil:
		return protocolError("there is a stream of type %s already", kind)
	}
	t.got[kind] = stream
	t.replies = append(t.replies, reply)
	if len(t.got) == len(t.wanted) {
		close(t.complete)
	}
	return nil
}

// await waits until the client has made its streams and knows that we have
// them: nothing may be sent before.
func (t *spdyRemote) await(ctx context.Context) error {
	timer := time.NewTimer(t.session.config.openTime)
	defer timer.Stop()
	stages := []<-chan struct{}{t.complete}
	for i := 0; i < len(stages); i++ {
		select {
		case <-stages[i]:
		case <-t.conn.CloseChan():
			return errClientLeft
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return fmt.Errorf("wait for the client's streams: %w", context.DeadlineExceeded)
		}
		if i == 0 {
			stages = append(stages, t.replies...) // complete: it changes no more
		}
	}
	if !t.session.link.usable(t.conn) {
		return errClientLeft
	}
	return nil
}

func (t *spdyRemote) streams() Streams {
	s := Streams{Resize: t.resize}
	if stdin := t.got[remotecommand.StreamTypeStdin]; stdin != nil {
		s.Stdin = lively{Reader: stdin, touch: t.session.touch}
	}
	if stdout := t.got[remotecommand.StreamTypeStdout]; stdout != nil {
		s.Stdout = lively{Writer: stdout, touch: t.session.touch}
	}
	if stderr := t.got[remotecommand.StreamTypeStderr]; stderr != nil {
		s.Stderr = lively{Writer: stderr, touch: t.session.touch}
	}
	return s
}

func (t *spdyRemote) cut() {
	// Data that waits for a reader keeps the end of the connection from being
	// seen.
	for _, kind := range []string{remotecommand.StreamTypeStdin, remotecommand.StreamTypeResize} {
		if stream := t.got[kind]; stream != nil {
			_ = stream.Reset()
		}
	}
}

// tell is best effort: a client that does not listen learns nothing.
func (t *spdyRemote) tell(end status) {
	t.cut()
	if message := end.encode(t.protocol == remotecommand.StreamProtocolV4Name); len(message) > 0 {
		_, _ = t.got[remotecommand.StreamTypeError].Write(message)
	}
	for _, kind := range []string{remotecommand.StreamTypeStdout, remotecommand.StreamTypeStderr, remotecommand.StreamTypeError} {
		if stream := t.got[kind]; stream != nil {
			_ = stream.Close()
		}
	}
}

func (t *spdyRemote) ended() <-chan bool { return t.conn.CloseChan() }

func (t *spdyRemote) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.session.link.limitWrites(t.session.config.tellTime)
	_ = t.conn.Close() // resets the streams
	_ = t.session.link.Close()
	for _, stream := range t.got {
		_ = stream.Reset() // also one that the connection did not know yet
	}
	<-t.conn.CloseChan()
}
