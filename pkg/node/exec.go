package node

import (
	"context"
	"errors"
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
	s.tell(t, "exec_start: "+strings.Join(open.GetCommand(), " "), nil)
	c := newClient(open.GetSize(), func() (input, error) { return stream.Recv() }, stream.Send)
	if open.GetDetach() {
		return s.execDetached(stream.Context(), t, c, process)
	}
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	wants := runtime.Streams{TTY: open.GetTty(), Stdout: someStream{}}
	if open.GetStdin() {
		wants.Stdin = someStream{}
	}
	if !open.GetTty() {
		wants.Stderr = someStream{}
	}
	streams, ctx, done := c.connect(ctx, wants)
	defer done()
	if err := c.say(&nodev1.StreamResponse{Ready: true}); err != nil {
		return err
	}
	code, err := t.c.Exec(ctx, process, streams)
	exit := &nodev1.Exit{Code: int32(code)}
	if err != nil {
		if exit = notStarted(err); exit == nil {
			return err
		}
	}
	s.tell(t, "exec_die", map[string]string{"exitCode": exitText(exit)})
	return c.say(&nodev1.StreamResponse{Exit: exit})
}

// execDetached runs a command that nobody is connected to. It ends with its
// container, or with the daemon.
func (s *Server) execDetached(ctx context.Context, t target, c *client, process *specs.Process) error {
	tty := process.Terminal
	ended := make(chan error, 1)
	started := make(chan struct{})
	s.later(t.c.ID(), func(ctx context.Context) error { //nolint:contextcheck // it outlives the call
		streams := runtime.Streams{TTY: tty, Stdout: someStream{}}
		if !tty {
			streams.Stderr = someStream{}
		}
		streams.Started = func() { close(started) }
		code, err := t.c.Exec(ctx, process, streams)
		ended <- err
		if err == nil {
			s.tell(t, "exec_die", map[string]string{"exitCode": exitText(&nodev1.Exit{Code: int32(code)})})
		}
		return nil // the client was told
	})
	exit := &nodev1.Exit{}
	select {
	case <-started:
	case err := <-ended:
		if err != nil {
			if exit = notStarted(err); exit == nil {
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

func exitText(e *nodev1.Exit) string { return strconv.Itoa(int(e.GetCode())) }
