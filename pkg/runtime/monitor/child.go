package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

const (
	logName   = "monitor.log"
	spawnTime = 15 * time.Second
	reapTime  = time.Second
	maxLog    = 1 << 20
)

// A child is the monitor that this process has started, if it has.
type child struct{ process *os.Process }

// spawn starts a monitor in a session of its own and waits until it listens.
func (c *child) spawn(ctx context.Context, cfg Config) error {
	c.reap()
	log, err := openMonitorLog(filepath.Join(cfg.Dir, logName))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the monitor has its own
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }() // nothing is written to it
	ready, told, err := os.Pipe()
	if err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, readyEnv+"=") || strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "LISTEN_")
	})
	c.process, err = os.StartProcess(cfg.Exe, []string{"cri-node", "monitor", "--dir", cfg.Dir}, &os.ProcAttr{
		Dir:   "/",
		Env:   append(env, readyEnv+"=1"),
		Files: []*os.File{null, log, log, told},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err := errors.Join(err, told.Close()); err != nil {
		return errors.Join(fmt.Errorf("execute monitor: %w", err), ready.Close())
	}
	text, err := readReady(ctx, ready)
	if err := errors.Join(err, ready.Close()); err != nil {
		return fmt.Errorf("wait for monitor: %w", err)
	}
	if text != readyText {
		if text == "" {
			text = "it ended at once, see " + log.Name()
		}
		c.reap()
		if strings.Contains(text, linux.ErrLocked.Error()) {
			return fmt.Errorf("monitor does not start: %w", linux.ErrLocked)
		}
		return fmt.Errorf("monitor does not start: %s", text)
	}
	return nil
}

func readReady(ctx context.Context, ready *os.File) (string, error) {
	deadline := time.Now().Add(spawnTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) }) // it is open until stop
	defer stop()
	text, err := io.ReadAll(io.LimitReader(ready, maxErrorTail))
	return string(text), err
}

// openMonitorLog keeps one older log.
func openMonitorLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// reap waits for a child that has ended, or is ending: a connection breaks a
// moment before its process is gone. It never waits for long.
func (c *child) reap() {
	if c.process == nil {
		return
	}
	p, err := linux.FindProcess(c.process.Pid)
	if err == nil && p.Alive() {
		pidfd, err := p.Open()
		if err == nil {
			exited, pollErr := linux.PollPidfd(pidfd, reapTime)
			if err := errors.Join(pollErr, pidfd.Close()); err != nil || !exited {
				return // it lives; perhaps only the connection broke
			}
		}
	}
	var status unix.WaitStatus
	pid, err := unix.Wait4(c.process.Pid, &status, unix.WNOHANG, nil)
	if pid == c.process.Pid || errors.Is(err, unix.ECHILD) {
		_ = c.process.Release() // it was waited for above
		c.process = nil
	}
}
