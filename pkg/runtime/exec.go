package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// drainTime is how long output is still read after the process has exited while
// something it left behind holds it open (CVE-2026-53495: for ever).
const drainTime = 2 * time.Second

// Exec runs a process in the running container and waits for it. Its output
// comes straight to the writers, which are not used any more when Exec returns.
// When ctx ends first, the process and everything it started is dead before
// Exec returns, with the cause of ctx as the error. The exit code is that of
// the process, 128+n where signal n ended it; a process that could not be
// started is an error.
func (c *Container) Exec(ctx context.Context, process *specs.Process, s Streams) (code int, err error) {
	if err := c.expect(Running); err != nil {
		return 0, err
	}
	runtime, err := c.driver()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(c.Dir(), "exec", strconv.FormatUint(c.execs.Add(1), 10))
	// Not MkdirAll: that would bring back the directory of a container that has
	// just been removed.
	if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return 0, fmt.Errorf("create directory of execs: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, fmt.Errorf("create directory of the exec: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	argv, err := runtime.ExecCommand(c.id, dir, process)
	if err != nil {
		return 0, err
	}
	request := monitor.ExecRequest{Argv: argv, PidFile: oci.PidFile(dir), Env: oci.Environment(), HideUnifiedCgroup: runtime.HideUnified()}
	status, err := c.m.execWithOutput(ctx, request, s.Stdout, s.Stderr)
	if _, ok := errors.AsType[*monitor.CreateError](err); ok {
		return 0, runtime.ExecError(dir, err)
	}
	switch {
	case errors.Is(err, monitor.ErrMonitorLost):
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

// execWithOutput gives the process pipes and empties them.
func (m *Manager) execWithOutput(ctx context.Context, request monitor.ExecRequest, stdout, stderr io.Writer) (status unix.WaitStatus, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, null.Close()) }()
	out, err := newOutput(stdout)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.close()) }()
	errs, err := newOutput(stderr)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, errs.close()) }()

	var copying sync.WaitGroup
	copying.Go(out.copy)
	copying.Go(errs.copy)
	status, err = m.monitor.Exec(ctx, request, [3]*os.File{null, out.write, errs.write})
	err = errors.Join(err, out.finish(), errs.finish())
	copying.Wait()
	return status, err
}

// output is one stream of a process on its way to a writer.
type output struct {
	read, write *os.File
	to          io.Writer
}

func newOutput(to io.Writer) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create pipe: %w", err)
	}
	return &output{read: r, write: w, to: to}, nil
}

// copy ends with the last holder of the other end, or when finish says so.
// Errors end it too: the process has no reader then, as with any pipe.
func (o *output) copy() {
	if o.to == nil {
		o.to = io.Discard
	}
	_, _ = io.Copy(o.to, o.read)
}

// finish lets go of our copy of the process's end, and limits how much longer
// what the process left behind is listened to.
func (o *output) finish() error {
	err := o.write.Close()
	o.write = nil
	return errors.Join(err, o.read.SetReadDeadline(time.Now().Add(drainTime)))
}

func (o *output) close() error {
	if o.write == nil {
		return o.read.Close()
	}
	return errors.Join(o.read.Close(), o.write.Close())
}
