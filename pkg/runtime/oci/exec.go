package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// ExecRequest is one more process in a running container.
type ExecRequest struct {
	ID      string
	Process *specs.Process
	// Dir is a private directory for this exec's files. It must exist; the
	// caller removes it.
	Dir            string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// drainTime is how long output is still read after the process has exited and
// something it left behind holds its output open (CVE-2026-53495: for ever).
const drainTime = 2 * time.Second

// Exec runs a process in a container and waits for it. When ctx ends first, the
// process and everything it started is killed before Exec returns, and the
// error is that of ctx. The exit code is that of the process, 128+n where
// signal n ended it; a process that could not be started is an error.
func (r *Runtime) Exec(ctx context.Context, e ExecRequest) (int, error) {
	document, err := json.Marshal(e.Process)
	if err != nil {
		return 0, fmt.Errorf("encode process: %w", err)
	}
	processFile := filepath.Join(e.Dir, "process.json")
	if err := linux.WriteFileAtomic(processFile, document, 0o600, linux.SurviveProcess); err != nil {
		return 0, err
	}
	pidFile, logFile := PidFile(e.Dir), filepath.Join(e.Dir, "log")
	argv := append(r.command(logFile), "exec", "--process", processFile, "--pid-file", pidFile, e.ID)

	// The context does not kill the runtime: it would orphan the process in the
	// container. killExec ends both.
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // see above
	cmd.Dir, cmd.Env = "/", environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.Stdin, e.Stdout, e.Stderr
	cmd.WaitDelay = drainTime
	if err := r.start(cmd); err != nil {
		return 0, fmt.Errorf("run %s exec: %w", r.config.Path, err)
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	select {
	case err = <-waited:
	case <-ctx.Done():
		killErr := errors.Join(KillExec(pidFile), ignoreDone(cmd.Process.Kill()))
		_ = <-waited // it was killed, and says so
		// The runtime may have brought the process to life after the first look.
		return 0, errors.Join(context.Cause(ctx), killErr, KillExec(pidFile))
	}
	return r.exitCode(err, e.Dir, logFile)
}

// exitCode tells the exit code of the process from a failure of the runtime:
// the runtime wrote a pid file only if there was a process, and logs an error
// only if it could not run it.
func (r *Runtime) exitCode(err error, dir, logFile string) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("wait for exec: %w", err)
	}
	message := lastError(logFile, 0)
	if message != "" || size(PidFile(dir)) == 0 {
		return 0, &Error{Runtime: r.config.Handler, Verb: "exec", Message: sanitise(message), Err: err}
	}
	return exit.ExitCode(), nil
}

// PidFile is where Exec finds the pid of the process it started in dir.
func PidFile(dir string) string { return filepath.Join(dir, "pid") }

// KillExec kills the process whose pid is in a pid file of Exec with all its
// descendants and everything in its session. No pid file means no process.
func KillExec(pidFile string) error {
	b, err := os.ReadFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("read pid file %s: %w", pidFile, err)
	}
	st, err := os.Stat(pidFile)
	if err != nil {
		return err
	}
	p, err := linux.FindProcess(pid)
	if err != nil || p.StartedAfter(st.ModTime()) {
		p = linux.Process{} // gone, and the pid may be someone else's by now
	}
	return linux.KillTree(pid, p)
}

// ignoreDone takes a process that has ended by itself as killed.
func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
