package cri

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/cri/streaming"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Exec returns the URL under which a client runs a command in a container.
func (s *Server) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := spec.ValidateExecStream(r); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	streams, err := s.streams()
	if err != nil {
		return nil, err
	}
	url, err := streams.Exec(streaming.Exec{ContainerID: c.ID(), Command: r.GetCmd(), Wants: wants(r)})
	if err != nil {
		return nil, fmt.Errorf("execute in container %s: %w", c.ID(), err)
	}
	return &runtimeapi.ExecResponse{Url: url}, nil
}

// streams is the streaming server.
func (s *Server) streams() (*streaming.Server, error) {
	if s.config.Streams == nil {
		return nil, fmt.Errorf("there is no streaming server: %w", errdefs.ErrNotImplemented)
	}
	return s.config.Streams, nil
}

// runningContainer finds a container that something is to be done in.
func (s *Server) runningContainer(id string) (*runtime.Container, error) {
	c, err := s.findContainer(id)
	if err != nil {
		return nil, err
	}
	if state := c.Status().State; state != runtime.Running {
		return nil, fmt.Errorf("container %s is %s, not %s: %w", c.ID(), state, runtime.Running, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// wants are the streams of an ExecRequest or AttachRequest.
func wants(r interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
},
) streaming.Wants {
	return streaming.Wants{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
}

// StreamRuntime is what the streaming server does its work with.
func (s *Server) StreamRuntime() streaming.Runtime { return streamRuntime{s} }

// streamRuntime fits the containers and sandboxes to the streaming server.
type streamRuntime struct{ server *Server }

// Exec runs a command in a container.
func (r streamRuntime) Exec(ctx context.Context, e streaming.Exec, streams streaming.Streams) (int, error) {
	c, err := r.server.runningContainer(e.ContainerID)
	if err != nil {
		return 0, err
	}
	init, err := c.InitProcess()
	if err != nil {
		return 0, err
	}
	process, err := spec.Process(init, e.Command, spec.Terminal(e.TTY))
	if err != nil {
		return 0, err
	}
	var code int
	err = withStreams(ctx, streams, e.TTY, func(ctx context.Context, s runtime.Streams) (err error) {
		code, err = c.Exec(ctx, process, s)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("execute %q in container %s: %w", e.Command, c.ID(), err)
	}
	return code, nil
}

// Attach connects to a container.
func (r streamRuntime) Attach(ctx context.Context, a streaming.Attach, streams streaming.Streams) error {
	c, err := r.server.runningContainer(a.ContainerID)
	if err != nil {
		return err
	}
	return withStreams(ctx, streams, a.TTY, c.Attach)
}

// Dial connects to a port of a pod.
func (r streamRuntime) Dial(ctx context.Context, sandboxID string, port uint16) (net.Conn, error) {
	s, err := r.server.config.Sandboxes.Get(sandboxID)
	if err != nil {
		return nil, err
	}
	return s.Dial(ctx, port)
}

// withStreams calls f with streams in the form of package runtime.
func withStreams(ctx context.Context, s streaming.Streams, tty bool, f func(context.Context, runtime.Streams) error) error {
	var sizes sync.WaitGroup
	defer sizes.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := runtime.Streams{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, TTY: tty}
	if s.Resize != nil {
		resize := make(chan runtime.Size)
		out.Resize = resize
		sizes.Go(func() {
			defer close(resize)
			passSizes(ctx, resize, s.Resize)
		})
	}
	return f(ctx, out)
}

func passSizes(ctx context.Context, to chan<- runtime.Size, from <-chan streaming.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- runtime.Size(size):
			case <-ctx.Done():
				return
			}
		}
	}
}
