package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// ExecRequest asks for one more process in a container. The runtime is run
// detached, so that nothing of it stays beside the process, and the monitor is
// the process's parent, who alone learns its exit status on every kernel.
type ExecRequest struct {
	// Argv is the whole command line of the OCI runtime, with "exec",
	// "--detach" and "--pid-file" PidFile; Argv[0] is an absolute path.
	Argv []string `json:"argv"`
	// PidFile is where the runtime writes the pid of the process.
	PidFile string `json:"pidFile"`
	// Env is the environment of the runtime, not of the process.
	Env []string `json:"env,omitempty"`
	// HideUnifiedCgroup is as in CreateRequest.
	HideUnifiedCgroup bool `json:"hideUnifiedCgroup,omitempty"`
	// Detached: once it has begun, the process goes on when its caller is gone.
	Detached bool `json:"detached,omitempty"`
}

// execResult is how the process ended, as wait4(2) says it.
type execResult struct {
	Status uint32 `json:"status"`
}

// stdioFDs is how many descriptors come with an exec.
const stdioFDs = 3

// Exec runs a process and waits until it ends. stdio stays the caller's. When
// ctx ends first, the process and what it started is killed before Exec
// returns, unless it is detached and has begun. A runtime that could not start it is a *CreateError.
func (s *Supervisor) Exec(ctx context.Context, req ExecRequest, stdio [stdioFDs]*os.File) (unix.WaitStatus, error) {
	l, err := s.current(ctx)
	if err != nil {
		return 0, err
	}
	fds := make([]int, 0, stdioFDs)
	for _, f := range stdio {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeFDs(fds)
			return 0, os.NewSyscallError("duplicate stdio", err)
		}
		fds = append(fds, fd)
	}
	answer, err := l.callCancelFDs(ctx, opExec, req, fds)
	if err != nil {
		return 0, err
	}
	closeFDs(answer.fds)
	result, err := decode[execResult](answer.Body)
	return unix.WaitStatus(result.Status), err
}

func (s *session) exec(ctx context.Context, raw json.RawMessage, fds []int) (any, error) {
	req, err := decode[ExecRequest](raw)
	if err != nil {
		return nil, err
	}
	switch {
	case len(fds) != stdioFDs:
		return nil, fmt.Errorf("%w: %d file descriptors for an exec", ErrInvalid, len(fds))
	case len(req.Argv) == 0 || !filepath.IsAbs(req.Argv[0]):
		return nil, fmt.Errorf("%w: command %q has no absolute path", ErrInvalid, req.Argv)
	case !filepath.IsAbs(req.PidFile):
		return nil, fmt.Errorf("%w: pid file %q is not absolute", ErrInvalid, req.PidFile)
	}
	status, err := s.m.exec(ctx, req, fds)
	return execResult{Status: uint32(status)}, err
}

// execution is one exec under way.
type execution struct {
	m   *server
	req ExecRequest
	// runtime is the pid of the OCI runtime, which began a session.
	runtime int
	process linux.Process
	// session the process is in: its own with runc, that of a short-lived
	// helper with crun.
	session int
	ended   chan unix.WaitStatus
}

func (m *server) exec(ctx context.Context, req ExecRequest, fds []int) (unix.WaitStatus, error) {
	e := &execution{m: m, req: req, ended: make(chan unix.WaitStatus, 1)}
	if err := e.begin(ctx, fds); err != nil {
		return 0, errors.Join(err, e.kill())
	}
	select {
	case status := <-e.ended:
		return status, nil
	case <-ctx.Done():
	}
	if req.Detached {
		return 0, ctx.Err()
	}
	err := e.kill()
	if err == nil {
		<-e.ended
	}
	return 0, errors.Join(ctx.Err(), err)
}

// begin runs the runtime to its end and watches the process it leaves.
func (e *execution) begin(ctx context.Context, fds []int) error {
	give, err := e.m.slots.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	e.m.reaper.beginCreate()
	defer e.m.reaper.endCreate()
	var since uint64
	exited := make(chan unix.WaitStatus, 1)
	pid, err := e.m.spawner(e.req.HideUnifiedCgroup).start(spawnJob{
		argv: e.req.Argv, env: e.req.Env, dir: "/",
		stdio:  [stdioFDs]uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])},
		exited: func(status unix.WaitStatus, _ time.Time) { exited <- status },
		since:  &since,
	})
	if err != nil {
		return &CreateError{Reason: err.Error(), NotFound: errors.Is(err, fs.ErrNotExist)}
	}
	e.runtime = pid
	var status unix.WaitStatus
	select {
	case status = <-exited:
	case <-ctx.Done():
		// The process may run already, in a session of its own and with its pid in no
		// file: what it is a child of tells that it is the runtime's.
		err := linux.KillTree(pid, linux.Process{PID: pid, StartTime: since})
		e.m.reaper.killGroup(pid)
		<-exited
		return errors.Join(ctx.Err(), err)
	}
	if status.Signaled() {
		return &CreateError{Reason: "killed by signal " + unix.SignalName(status.Signal())}
	}
	if status.ExitStatus() != 0 {
		return &CreateError{Reason: "exit status " + strconv.Itoa(status.ExitStatus())}
	}
	child, err := readPidFile(e.req.PidFile)
	if err != nil {
		return &CreateError{Reason: err.Error()}
	}
	e.process, err = e.m.reaper.watch(child, since, func(status unix.WaitStatus, _ time.Time) { e.ended <- status })
	if err != nil {
		return &CreateError{Reason: fmt.Sprintf("pid file names process %d: %v", child, err)}
	}
	if s, err := linux.ReadStat(child); err == nil && s.StartTime == e.process.StartTime {
		e.session = s.Session
	}
	return nil
}

// kill ends the process, its descendants and all that is left of the sessions
// that the runtime and the process began.
func (e *execution) kill() error {
	if e.runtime == 0 {
		return nil
	}
	if e.process.PID == 0 {
		// A runtime that was killed may have got as far as this.
		if pid, err := readPidFile(e.req.PidFile); err == nil {
			if s, err := linux.ReadStat(pid); err == nil && s.PPID == os.Getpid() {
				e.process, e.session = linux.Process{PID: pid, StartTime: s.StartTime}, s.Session
			}
		}
	}
	return errors.Join(
		linux.KillTree(e.session, e.process),
		linux.KillTree(e.runtime, linux.Process{}),
	)
}
