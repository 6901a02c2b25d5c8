package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// Exit codes of commands that could not be started, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// maxTold is how many characters of a command events tell, which are kept.
const maxTold = 256

// Exec runs a command in a container.
func (s *containers) Exec(stream grpc.BidiStreamingServer[nodev1.ExecRequest, nodev1.StreamResponse]) error {
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
	switch st := t.c.Status(); {
	case st.Paused:
		return refused("container %q is paused: \"cri-node unpause %s\" lets it go on", s.title(t), s.title(t))
	case st.State != runtime.Running:
		return refused("container %q does not run: \"cri-node start %s\" starts it", s.title(t), s.title(t))
	}
	process, err := execProcess(t.c, open)
	if err != nil {
		return err
	}
	s.tell(t, fmt.Sprintf("exec_start: %.*s", maxTold, strings.Join(open.GetCommand(), " ")), nil)
	c := newClient(open.GetSize(), func() (input, error) { return stream.Recv() }, stream.Send)
	if open.GetDetach() {
		return s.execDetached(stream.Context(), t, c, process)
	}
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	c.goesOn = true
	wants := runtime.Streams{TTY: open.GetTty(), Stdout: someStream{}}
	if open.GetStdin() {
		wants.Stdin = someStream{}
	}
	if !open.GetTty() {
		wants.Stderr = someStream{}
	}
	streams, ctx, done := c.connect(ctx, wants)
	defer c.leave()
	if err := c.say(&nodev1.StreamResponse{Ready: true}); err != nil {
		done()
		return err
	}
	ended := s.execute(t, process, streams, done)
	<-ctx.Done() // with the process, or when the client goes
	select {
	case e := <-ended:
		exit, err := e.exit()
		if err != nil {
			return err
		}
		return c.say(&nodev1.StreamResponse{Exit: exit})
	default:
		return context.Cause(ctx)
	}
}

// execEnd is how an exec ended.
type execEnd struct {
	code int
	err  error
}

// exit is what a client is told, which of a command that could not be executed
// is no error.
func (e execEnd) exit() (*nodev1.Exit, error) {
	if e.err == nil {
		return &nodev1.Exit{Code: int32(e.code)}, nil
	}
	if exit := notStarted(e.err); exit != nil {
		return exit, nil
	}
	return nil, e.err
}

// execute runs a command in the time of the server: it goes on when its client
// has gone, as docker's does. done is called when it has ended.
func (s *Server) execute(t target, process *specs.Process, streams runtime.Streams, done func()) <-chan execEnd {
	ended := make(chan execEnd, 1)
	s.later(t.c.ID(), func(ctx context.Context) error {
		defer done()
		code, err := t.c.Exec(ctx, process, streams)
		e := execEnd{code, err}
		ended <- e
		if exit, err := e.exit(); err == nil {
			s.tell(t, "exec_die", map[string]string{"exitCode": strconv.Itoa(int(exit.GetCode()))})
		}
		return nil // the client is told
	})
	return ended
}

// execDetached runs a command that nobody is connected to. It ends with its
// container; one that has a terminal ends with the daemon, who has the other end
// of that.
func (s *Server) execDetached(ctx context.Context, t target, c *client, process *specs.Process) error {
	started := make(chan struct{})
	streams := runtime.Streams{Detached: true, Started: func() { close(started) }}
	if process.Terminal {
		streams.TTY, streams.Detached = true, false
	}
	ended := s.execute(t, process, streams, func() {}) //nolint:contextcheck // it goes on when its client has gone
	exit := &nodev1.Exit{}
	select {
	case <-started:
	case e := <-ended:
		if e.err != nil {
			var err error
			if exit, err = e.exit(); err != nil {
				return err
			}
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return c.say(&nodev1.StreamResponse{Ready: true, Exit: exit})
}

// execProcess is what the OCI runtime is asked to run.
func execProcess(c *runtime.Container, open *nodev1.ExecOpen) (*specs.Process, error) {
	init, err := c.InitProcess()
	if err != nil {
		return nil, err
	}
	process, err := spec.Process(init, open.GetCommand(), spec.Terminal(open.GetTty()))
	if err != nil {
		return nil, err
	}
	return process, spec.Adjust(process, c.RootfsPath(), spec.ExecOptions{
		Env: open.GetEnv(), Workdir: open.GetWorkdir(), User: open.GetUser(), Privileged: open.GetPrivileged(),
	})
}

// notStarted is the exit of a command that the OCI runtime could not execute;
// nil where that is not what has failed.
func notStarted(err error) *nodev1.Exit {
	var failed *oci.Error
	if !errors.As(err, &failed) {
		return nil
	}
	message := failed.Message
	switch {
	case strings.Contains(message, "executable file not found"), strings.Contains(message, "no such file or directory"),
		strings.Contains(message, "No such file or directory"):
		return &nodev1.Exit{Code: exitNotFound, Error: message}
	case strings.Contains(message, "permission denied"), strings.Contains(message, "Permission denied"),
		strings.Contains(message, "open executable: Operation not permitted"), strings.Contains(message, "is a directory"), strings.Contains(message, "exec format error"):
		return &nodev1.Exit{Code: exitNotExecutable, Error: message}
	}
	return nil
}
