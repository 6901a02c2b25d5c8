package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// ExecCommand prepares one more process in a container: it writes the process
// to dir, a private directory of this exec, and returns the command line that
// starts it and leaves it to the caller, a child subreaper. A process with a
// terminal has its master sent to consoleSocket.
func (r *Runtime) ExecCommand(id, dir string, process *specs.Process, consoleSocket string) ([]string, error) {
	document, err := json.Marshal(process)
	if err != nil {
		return nil, fmt.Errorf("encode process: %w", err)
	}
	processFile := filepath.Join(dir, "process.json")
	if err := linux.WriteFileAtomic(processFile, document, 0o600, linux.SurviveProcess); err != nil {
		return nil, err
	}
	argv := append(r.command(execLog(dir)), "exec", "--detach", "--process", processFile, "--pid-file", PidFile(dir))
	if process.Terminal {
		argv = append(argv, "--console-socket", consoleSocket)
	}
	return append(argv, id), nil
}

// PidFile is where the process of an exec in dir has its pid.
func PidFile(dir string) string { return filepath.Join(dir, "pid") }

func execLog(dir string) string { return filepath.Join(dir, "log") }

// ExecError explains why the runtime could not start the process of an exec in
// dir.
func (r *Runtime) ExecError(dir string, cause error) error {
	return &Error{Runtime: r.config.Handler, Verb: "exec", Message: Explain(execLog(dir), 0, cause.Error()), Err: cause}
}

// KillExec kills the process whose pid is in a pid file of an exec with all its
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
	session := pid // where the process is gone, what it left may be in its session
	p, err := linux.FindProcess(pid)
	if err != nil || p.StartedAfter(st.ModTime()) {
		p = linux.Process{} // the pid may be someone else's by now
	} else if s, err := linux.ReadStat(pid); err == nil {
		session = s.Session
	}
	return linux.KillTree(session, p)
}
