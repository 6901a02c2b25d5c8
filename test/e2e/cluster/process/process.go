package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// Spec says what to run.
type Spec struct {
	// Name is that of its files in LogDir.
	Name, LogDir string
	Path         string
	Args         []string
	// Env is added to this process's environment.
	Env []string
	// NetNS is the path of the network namespace to run it in, "" for this one.
	NetNS string
}

// Process is one that runs, or has run.
type Process struct {
	Spec   Spec
	mark   usage.Process
	pidfd  int
	exited chan struct{}
}

// Start runs a program. Its log is appended to.
func Start(s Spec) (*Process, error) {
	log, err := os.OpenFile(s.file(".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(s.Path, s.Args...)
	if s.NetNS != "" {
		// It becomes the program and has no mount namespace of its own.
		cmd = exec.Command("nsenter", append([]string{"--net=" + s.NetNS, s.Path}, s.Args...)...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p := &Process{Spec: s, exited: make(chan struct{})}
	p.mark, _, _ = usage.Get(cmd.Process.Pid)
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		err = errors.Join(fmt.Errorf("open process %s: %w", s.Name, err), cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		return nil, err
	}
	p.pidfd = pidfd
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	data, err := json.Marshal(p.mark)
	if err == nil {
		err = os.WriteFile(s.file(".json"), data, 0o644)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("note process %s: %w", s.Name, err), p.Kill())
	}
	return p, nil
}

// Attach finds the process that another program of tests has started from the
// same Spec; false if it does not run.
func Attach(s Spec) (*Process, bool, error) {
	data, err := os.ReadFile(s.file(".json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	p := &Process{Spec: s, exited: make(chan struct{})}
	if err := json.Unmarshal(data, &p.mark); err != nil {
		return nil, false, fmt.Errorf("read note of process %s: %w", s.Name, err)
	}
	if p.pidfd, err = unix.PidfdOpen(p.mark.PID, 0); errors.Is(err, unix.ESRCH) || !usage.Alive(p.mark) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("open process %s: %w", s.Name, err)
	}
	go func() { // ends with the process, or with the tests
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				close(p.exited)
				return
			}
		}
	}()
	return p, true, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.mark.PID }

// Usage is the process for package usage.
func (p *Process) Usage() usage.Process { return p.mark }

// Exited is closed when it has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Running reports whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Signal sends a signal to it, unless it has ended.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	if err := unix.PidfdSendSignal(p.pidfd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to %s: %w", s, p.Spec.Name, err)
	}
	return nil
}

// Kill ends it with SIGKILL and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}

// Stop ends it with SIGTERM; it must be gone within the time.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	limit = pace.Limit(limit)
	select {
	case <-p.exited:
		return nil
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("%s does not end within %v of SIGTERM\n%s", p.Spec.Name, limit, p.Spec.LogTail(20)), p.Kill())
	}
}

// Log is the file of its log.
func (s Spec) Log() string { return s.file(".log") }

func (s Spec) file(suffix string) string { return filepath.Join(s.LogDir, s.Name+suffix) }

// LogTail is the end of its log.
func (s Spec) LogTail(lines int) string {
	data, err := os.ReadFile(s.Log())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
