package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Attach connects a client to the streams of a container. With start it is
// connected first and the container is started then; the last message is the
// exit code of that run. A client that goes leaves the container running, and so
// does one that sends a signal to a container of kubelet's.
func (s *containers) Attach(stream grpc.BidiStreamingServer[nodev1.AttachRequest, nodev1.StreamResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return invalid("open: the first message must have it")
	}
	t, err := s.find(open.GetContainer())
	if err != nil {
		return err
	}
	switch state := t.c.Status(); {
	case state.Paused:
		return refused("container %q is paused: \"cri-node unpause %s\" lets it go on", s.title(t), s.title(t))
	case state.State != runtime.Running && !open.GetStart():
		return refused("container %q does not run: \"cri-node start -a %s\" starts it", s.title(t), s.title(t))
	}
	bounded, stop := s.bound(stream.Context())
	defer stop()
	ctx, end := context.WithCancelCause(bounded)
	defer end(nil)
	c := newClient(open.GetSize(), func() (input, error) { return stream.Recv() }, stream.Send)
	c.signal = func(ctx context.Context, name string) error {
		// As kill does, which can be forced; and whoever presses ctrl-c wants to
		// leave.
		if t.e == nil {
			end(refused("container %[1]q belongs to Kubernetes and gets no signals of a client that is attached: it goes on, and \"cri-node kill --force %[1]s\" sends it one", s.title(t)))
			return nil
		}
		return s.passSignal(ctx, t, name)
	}
	wants := runtime.Streams{TTY: t.c.Status().TTY}
	if open.GetStdin() {
		wants.Stdin = someStream{}
	}
	if open.GetStdout() {
		wants.Stdout = someStream{}
	}
	if open.GetStderr() {
		wants.Stderr = someStream{}
	}
	a := &attachment{Server: s.Server, target: t, client: c}
	streams, ctx, done := c.connect(ctx, wants)
	defer done()
	if open.GetStart() {
		return a.start(ctx, streams)
	}
	n := t.ends()
	if err := a.attach(ctx, t.c, streams, nil); err != nil {
		return err
	}
	return a.exit(ctx, n)
}

// passSignal gives the process of a container of people's a signal of the
// client's.
func (s *Server) passSignal(ctx context.Context, t target, name string) error {
	sig, err := runtime.ParseSignal(name)
	if err != nil {
		return err
	}
	if asksForEnd(t.c.Status(), sig) {
		if err := s.dontRestart(t.e); err != nil {
			return err
		}
	}
	return s.signal(ctx, t, sig)
}

// attachment is one Attach under way.
type attachment struct {
	*Server
	target target
	client *client
}

// start connects, starts the container and stays until it has exited.
func (a *attachment) start(ctx context.Context, streams runtime.Streams) error {
	connection, disconnect := context.WithCancel(ctx)
	defer disconnect()
	attached := make(chan error, 1)
	connecting := false
	var before uint64
	err := a.startAsked(ctx, a.target, func(c *runtime.Container) error {
		before = a.target.ends()
		connected := make(chan struct{})
		connecting = true
		go func() {
			attached <- a.attach(connection, c, streams, func() { close(connected) })
		}()
		select {
		case <-connected:
			return nil
		case err := <-attached:
			attached <- err
			return err
		}
	})
	if err == nil {
		err = a.client.say(&nodev1.StreamResponse{Ready: true})
	}
	if err != nil {
		disconnect()
		if connecting {
			<-attached //nolint:errcheck // it comes of what err says
		}
		return err
	}
	if err := <-attached; err != nil {
		return err
	}
	return a.exit(ctx, before)
}

// attach moves bytes until the container has exited or the client has gone.
func (a *attachment) attach(ctx context.Context, c *runtime.Container, streams runtime.Streams, connected func()) error {
	if connected == nil {
		connected = func() { _ = a.client.say(&nodev1.StreamResponse{Ready: true}) }
	}
	streams.Connected = connected
	err := c.Attach(ctx, streams)
	if err != nil && errors.Is(err, runtime.ErrSlowClient) {
		return fmt.Errorf("attach to container %q: %w", a.title(a.target), err)
	}
	return err
}

// exit ends the stream with the container's exit code; one that is removed when
// it exits is gone then.
func (a *attachment) exit(ctx context.Context, before uint64) error {
	code, err := a.waitEnd(ctx, a.target, before)
	if err != nil {
		return err
	}
	if a.target.e != nil && a.target.e.record().AutoRemove {
		if err := a.waitItself(ctx, a.target.e); err != nil {
			return err
		}
	}
	return a.client.say(&nodev1.StreamResponse{Exit: &nodev1.Exit{Code: int32(code)}})
}
