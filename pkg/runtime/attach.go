package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// Attach connects a client to the streams that the container's init was given,
// before or after it is started, and returns nil when the container has exited and the client has
// all of its output. It ends earlier with the cause of ctx, with the error of a
// writer, with ErrSlowClient, and with ErrUnavailable when the monitor dies or
// is upgraded. Output from before the call is in the log alone; who attaches to a
// container that is Created, and starts it when Streams.Connected is called,
// misses none.
//
// The container's own terminal counts, not Streams.TTY. A stdin that the
// container does not have, or not any more, takes nothing. With StdinOnce the
// container's stdin ends with that of the first client, also if the client goes.
func (c *Container) Attach(ctx context.Context, s Streams) error {
	status := c.Status()
	if status.pending() || status.State != Created && status.State != Running {
		return fmt.Errorf("attach to container %s: it is %s: %w", c.id, status.State, errdefs.ErrFailedPrecondition)
	}
	a, err := c.m.monitor.Attach(ctx, monitor.AttachRequest{
		ID: c.id, Stdin: s.Stdin != nil && status.Stdin, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil && !status.TTY,
	})
	if err != nil {
		return c.attachError(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closed := make(chan struct{})
	// Closing makes every read and write of ours return.
	context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = a.Close() // nothing is left to be written
	})
	if s.Connected != nil {
		s.Connected()
	}
	err = c.follow(ctx, cancel, a, s)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	<-closed
	return c.attachError(err)
}

// follow moves the client's bytes until the attach ends.
func (c *Container) follow(ctx context.Context, cancel context.CancelCauseFunc, a *monitor.Attachment, s Streams) error {
	var copying, resizing sync.WaitGroup
	for _, stream := range []struct {
		to   io.Writer
		from *net.UnixConn
	}{{s.Stdout, a.Stdout}, {s.Stderr, a.Stderr}} {
		if stream.from == nil {
			continue
		}
		copying.Go(func() {
			if err := copyOutput(stream.to, stream.from); err != nil {
				cancel(fmt.Errorf("write to client: %w", err))
			}
		})
	}
	if a.Stdin != nil {
		go feed(a.Stdin, s.Stdin, a.Stdin.CloseWrite)
	}
	sizesCtx, stop := context.WithCancel(ctx)
	resizing.Go(func() { c.followSize(sizesCtx, s.Resize) })
	err := a.Wait(ctx)
	copying.Wait()
	stop()
	resizing.Wait()
	return err
}

// copyOutput returns the errors of the writer alone: the other end tells by
// itself why it ends.
func copyOutput(to io.Writer, from *net.UnixConn) error {
	w := &writer{to: to}
	_, _ = io.Copy(w, from)
	return w.err
}

// writer remembers its error.
type writer struct {
	to  io.Writer
	err error
}

func (w *writer) Write(p []byte) (n int, err error) {
	n, w.err = w.to.Write(p)
	return n, w.err
}

// followSize gives the container's terminal, if it has one, the client's size.
func (c *Container) followSize(ctx context.Context, sizes <-chan Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if c.Status().TTY {
				// A terminal that is not resized looks odd, and is no reason to
				// end the attach.
				_ = c.m.monitor.Resize(ctx, c.id, size.Width, size.Height)
			}
		case <-ctx.Done():
			return
		}
	}
}

// attachError puts the monitor's errors in the words of this package.
func (c *Container) attachError(err error) error {
	switch {
	case errors.Is(err, monitor.ErrSlow):
		return fmt.Errorf("attach to container %s: %w: %w", c.id, ErrSlowClient, err)
	case errors.Is(err, monitor.ErrMonitorLost):
		return fmt.Errorf("attach to container %s: %w: %w", c.id, errdefs.ErrUnavailable, err)
	case errors.Is(err, monitor.ErrState), errors.Is(err, monitor.ErrNotFound):
		return fmt.Errorf("attach to container %s: it has exited: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return err
}
