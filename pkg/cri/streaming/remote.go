package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// transport carries the streams of an exec or attach.
type transport interface {
	// streams is the client as Runtime sees it.
	streams() Streams
	// cut ends what the client sends, after it has left.
	cut()
	// tell sends how it ended and ends the streams.
	tell(end status)
	// ended is closed when the connection is, on either side.
	ended() <-chan bool
	// close makes all of the transport's goroutines return.
	close()
}

// remoteWork is what an exec or attach is for.
type remoteWork struct {
	wants Wants
	run   func(context.Context, Streams) (code int, err error)
	// grace is how long it may go on without its client.
	grace time.Duration
}

// safely makes a panic an error.
func (w remoteWork) safely(ctx context.Context, log klog.Logger, s Streams) (code int, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error(nil, "A streaming session panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return w.run(ctx, s)
}

// remote serves an exec or attach from the upgrade to the end.
func (s *session) remote(w http.ResponseWriter, r *http.Request, work remoteWork) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer s.group.Wait()
	defer cancel(nil)
	w = &hijacker{w, s}
	open := s.openSPDY
	if wantsWebSocket(r) {
		open = s.openChannels
	}
	t, err := open(ctx, w, r, work.wants)
	if s.link != nil {
		defer func() { _ = s.link.Close() }() // closed already unless something went wrong
	}
	if err != nil {
		return err
	}
	defer t.close()
	s.run(func() { s.watch(ctx, cancel) })
	s.run(func() {
		select {
		case <-t.ended():
			s.leave()
		case <-ctx.Done():
		}
	})
	s.run(func() { s.outlive(ctx, cancel, t, work.grace) })
	// However ctx ends, no write blocks for long any more.
	defer context.AfterFunc(ctx, func() { s.link.limitWrites(s.config.tellTime) })()

	code, err := work.safely(ctx, s.log, t.streams())
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	s.link.limitWrites(s.config.tellTime)
	t.tell(statusOf(code, err))
	s.linger(t.ended())
	return err
}

// outlive gives the work a moment after the client has left.
func (s *session) outlive(ctx context.Context, cancel context.CancelCauseFunc, t transport, grace time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-s.gone:
	}
	_ = s.link.Close() // so that writes fail at once
	t.cut()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		cancel(errClientLeft)
	}
}

// linger waits for the client to close the connection.
func (s *session) linger(ended <-chan bool) {
	timer := time.NewTimer(s.config.linger)
	defer timer.Stop()
	select {
	case <-ended:
	case <-s.gone:
	case <-timer.C:
	}
}

// wantsWebSocket reports whether a request is to be upgraded to WebSocket.
func wantsWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// lively counts data as activity.
type lively struct {
	io.Reader
	io.Writer
	touch func()
}

// Read reads, and touches.
func (l lively) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	l.touch()
	return n, err
}

// Write writes, and touches.
func (l lively) Write(p []byte) (int, error) {
	n, err := l.Writer.Write(p)
	l.touch()
	return n, err
}

var errProtocol = errors.New("protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}
