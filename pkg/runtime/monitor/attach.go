package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

// AttachRequest says which streams of a container a client wants. Those of a
// terminal are one, Stdout.
type AttachRequest struct {
	ID                    string
	Stdin, Stdout, Stderr bool
}

type attachBody struct {
	ID     string `json:"id"`
	Stdin  bool   `json:"stdin,omitempty"`
	Stdout bool   `json:"stdout,omitempty"`
	Stderr bool   `json:"stderr,omitempty"`
}

// An Attachment is a client's connection to a container's streams. What it did
// not ask for is nil.
//
// Stdout and Stderr give the raw bytes that the container has written since
// the attach, and end where its output does. Who does not read them is dropped.
// Stdin takes bytes as fast as the container reads them; CloseWrite ends it,
// which with StdinOnce, and without a terminal, closes the container's stdin.
type Attachment struct {
	Stdin, Stdout, Stderr *net.UnixConn

	link *link
	// ended gets why the monitor has ended the attach, once.
	ended chan error
}

// Attach connects to the streams of a container that has not exited. Nothing
// of it keeps the container, its log or other clients waiting. The caller must
// close the Attachment.
func (s *Supervisor) Attach(ctx context.Context, req AttachRequest) (*Attachment, error) {
	if _, err := s.current(ctx); err != nil {
		return nil, err
	}
	a := &Attachment{ended: make(chan error, 1)}
	var err error
	if a.link, err = dial(s.cfg.Dir, a.event); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMonitorLost, err)
	}
	if err := a.begin(ctx, req); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Attachment) begin(ctx context.Context, req AttachRequest) error {
	if _, err := call[helloBody](ctx, a.link, opHello, helloBody{Version: protocolVersion}); err != nil {
		return err
	}
	id, answer, err := a.link.begin(opAttach, attachBody(req), nil)
	if err != nil {
		return err
	}
	m, err := a.link.await(ctx, id, answer)
	if err != nil {
		return err
	}
	fds := m.fds
	for _, stream := range []struct {
		wanted bool
		conn   **net.UnixConn
	}{{req.Stdin, &a.Stdin}, {req.Stdout, &a.Stdout}, {req.Stderr, &a.Stderr}} {
		if !stream.wanted {
			continue
		}
		if len(fds) == 0 {
			return fmt.Errorf("%w: attach is answered with too few streams", ErrInvalid)
		}
		if *stream.conn, err = streamConn(fds[0]); err != nil {
			closeFDs(fds[1:])
			return err
		}
		fds = fds[1:]
	}
	closeFDs(fds)
	return nil
}

// streamConn takes ownership of a socket.
func streamConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "attach")
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open stream: it is a %T", c), c.Close())
	}
	return u, nil
}

// event is the link's call; exits of containers come too.
func (a *Attachment) event(m message) {
	if m.Op != eventAttachEnd {
		return
	}
	var err error
	if m.Error != nil {
		err = fromWire(m.Error)
	}
	select {
	case a.ended <- err:
	default:
	}
}

// Wait waits for the end of the attach: nil when the container has exited and
// all of its output was delivered, ErrSlow when it was not because nobody read
// it, ErrMonitorLost when the monitor has died or was upgraded. The streams end
// in each case, so read them before. It may be called once.
func (a *Attachment) Wait(ctx context.Context) error {
	select {
	case err := <-a.ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-a.link.lost:
	}
	select {
	case err := <-a.ended: // it came before the end
		return err
	default:
		return fmt.Errorf("%w: %w", ErrMonitorLost, a.link.err)
	}
}

// Close ends the attach and closes all its streams; reads and writes under way
// return.
func (a *Attachment) Close() error {
	a.link.close()
	var errs []error
	for _, c := range []*net.UnixConn{a.Stdin, a.Stdout, a.Stderr} {
		if c == nil {
			continue
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
