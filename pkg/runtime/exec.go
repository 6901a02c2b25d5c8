package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// drainTime is how long output is still read after the process has exited while
// something it left behind holds it open (CVE-2026-53495: for ever).
const drainTime = 2 * time.Second

// Exec runs a process in the running container and waits for it. Its output
// comes straight to the writers. When ctx ends first, the process and
// everything it started is dead before Exec returns, with the cause of ctx as
// the error, unless it is Detached. The exit code is that of the process, 128+n where signal n ended
// it; a process that could not be started is an error. Streams.TTY decides
// whether the process gets a terminal, whatever process says.
//
// Exec ends with the process: it waits neither for Stdin nor, for long, for
// what the process left behind with its output open. A writer that fails is to
// the process a pipe without a reader, or a terminal that hung up.
func (c *Container) Exec(ctx context.Context, process *specs.Process, s Streams) (code int, err error) {
	if err := c.expect(Running); err != nil {
		return 0, err
	}
	if c.Status().Paused {
		return 0, fmt.Errorf("container %s is paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	runtime, err := c.driver()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(c.Dir(), "exec", strconv.FormatUint(c.execs.Add(1), 10))
	if s.Detached {
		dir += detachedSuffix
	}
	if err := c.m.onFiles(func() error { return makeExecDir(dir) }); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, c.m.onFiles(func() error { return os.RemoveAll(dir) }))
	}()
	e := &execution{m: c.m, id: c.id, runtime: runtime, dir: dir, process: *process, streams: s}
	status, err := e.run(ctx)
	if _, ok := errors.AsType[*monitor.CreateError](err); ok {
		err = runtime.ExecError(dir, err)
		// The word of its end may still be on its way.
		if !c.Status().Process.Alive() {
			err = fmt.Errorf("container %s ended meanwhile: %w: %w", c.id, errdefs.ErrFailedPrecondition, err)
		}
		return 0, err
	}
	switch {
	case errors.Is(err, monitor.ErrMonitorLost) && !s.Detached:
		return 0, errors.Join(err, oci.KillExec(oci.PidFile(dir)))
	case err != nil && ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err != nil:
		return 0, err
	case status.Signaled():
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// detachedSuffix marks the directory of an exec that outlives its daemon.
const detachedSuffix = ".detached"

// makeExecDir does without MkdirAll, which would bring back the directory of a
// container that has just been removed.
func makeExecDir(dir string) error {
	if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create directory of execs: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("create directory of the exec: %w", err)
	}
	return nil
}

// maxFileWork is how many execs work on files at a time. Each of them takes a
// thread, and Go keeps threads for good.
const maxFileWork = 8

// onFiles does work that the disk may hold up.
func (m *Manager) onFiles(work func() error) error {
	m.fileWork <- struct{}{}
	defer func() { <-m.fileWork }()
	return work()
}

// execution is one exec under way.
type execution struct {
	m       *Manager
	id      string
	runtime *oci.Runtime
	dir     string
	process specs.Process
	streams Streams
}

func (e *execution) run(ctx context.Context) (unix.WaitStatus, error) {
	e.process.Terminal = e.streams.TTY
	if e.streams.TTY {
		return e.runInTerminal(ctx)
	}
	return e.runWithPipes(ctx)
}

// start has the monitor run the process with stdio and waits for its end.
func (e *execution) start(ctx context.Context, stdio [3]*os.File, consoleSocket string) (status unix.WaitStatus, err error) {
	ctx, end := progress.Start(ctx, "monitor exec", "oci.runtime", e.runtime.Handler(), "container.id", e.id)
	defer func() { end(err) }()
	var argv []string
	err = e.m.onFiles(func() (err error) {
		argv, err = e.runtime.ExecCommand(e.id, e.dir, &e.process, consoleSocket)
		return err
	})
	if err != nil {
		return 0, err
	}
	if e.streams.Started != nil {
		stop, err := watchStart(e.dir, e.streams.Started)
		if err != nil {
			return 0, err
		}
		defer stop()
	}
	return e.m.monitor.Exec(ctx, monitor.ExecRequest{
		Argv: argv, PidFile: oci.PidFile(e.dir), Env: oci.Environment(ctx), HideUnifiedCgroup: e.runtime.HideUnified(),
		Detached: e.streams.Detached,
	}, stdio)
}

// runWithPipes gives the process pipes, and moves bytes through them.
func (e *execution) runWithPipes(ctx context.Context) (status unix.WaitStatus, err error) {
	p := &pipes{}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(e.streams); err != nil {
		return 0, err
	}
	status, err = e.start(ctx, p.process, "")
	return status, errors.Join(err, p.drain())
}

// runInTerminal gives the process a terminal, whose master comes from the OCI
// runtime.
func (e *execution) runInTerminal(ctx context.Context) (status unix.WaitStatus, err error) {
	console, err := monitor.NewConsole(e.dir, e.id)
	if err != nil {
		return 0, fmt.Errorf("listen for terminal: %w", err)
	}
	defer func() { err = errors.Join(err, console.Close()) }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, null.Close()) }()
	t := newTerminal(e.streams)
	if t.size != (Size{}) {
		e.process.ConsoleSize = &specs.Box{Width: uint(t.size.Width), Height: uint(t.size.Height)}
	}
	connectCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	connected := make(chan error, 1)
	go func() { connected <- t.connect(connectCtx, console) }()
	status, err = e.start(ctx, [3]*os.File{null, null, null}, console.Path())
	if err != nil {
		cancel()
	}
	// A process that ran has its terminal on the way to us.
	patience := time.AfterFunc(drainTime, cancel)
	connectErr := <-connected
	patience.Stop()
	if err == nil {
		err = connectErr
	}
	t.drain()
	return status, err
}
