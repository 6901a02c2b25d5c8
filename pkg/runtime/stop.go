package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// killWait is how long a killed container may take to be gone before Stop says
// what it hangs on. The caller's context may be shorter.
const killWait = 60 * time.Second

// doubtInterval is how often a wait for the monitor's news of an exit looks
// whether there will be any.
const doubtInterval = 5 * time.Second

// Stop ends a running container: its stop signal, then, after timeout,
// SIGKILL. It returns once the container is Exited. A container that does not
// run is a success. Of several calls at once the shortest timeout wins.
func (c *Container) Stop(ctx context.Context, timeout time.Duration) error {
	if err := c.startFinished(ctx); err != nil {
		return err
	}
	if c.Status().State != Running {
		return nil
	}
	gone := c.Exited()
	if timeout > 0 {
		ctx := progress.Enter(ctx, "stop signal")
		if err := c.sendStopSignal(); err != nil {
			return err
		}
		grace := time.NewTimer(timeout)
		defer grace.Stop()
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for container %s to stop: %w", c.id, context.Cause(ctx))
		case <-grace.C:
		}
	}
	return c.killAndWait(progress.Enter(ctx, "kill"))
}

// startFinished waits for a start under way: what it brings to life is meant,
// too, by who stops the container now.
func (c *Container) startFinished(ctx context.Context) error {
	s := c.Status()
	if s.State != Created || !s.Starting {
		return nil
	}
	unlock, err := c.lock(progress.Enter(ctx, "start under way"))
	if err != nil {
		return err
	}
	unlock()
	return nil
}

// sendStopSignal sends the stop signal the first time it is called.
func (c *Container) sendStopSignal() error {
	s := c.Status()
	if !s.life.stopSent.CompareAndSwap(false, true) {
		return nil
	}
	sig, err := parseSignal(s.StopSignal)
	if err != nil {
		sig = unix.SIGTERM // an image must not make its container unstoppable
	}
	if err := ignoreGone(s.Process.Signal(sig)); err != nil {
		return err
	}
	return c.thaw() // or it would not get the signal
}

// killAndWait kills the container, created or running, and waits until it is
// Exited.
func (c *Container) killAndWait(ctx context.Context) error {
	gone := c.Exited()
	if err := c.kill(ctx); err != nil {
		return err
	}
	limit := time.NewTimer(killWait)
	defer limit.Stop()
	doubt := time.NewTicker(doubtInterval)
	defer doubt.Stop()
	for {
		select {
		case <-gone:
			return nil
		case <-doubt.C:
			c.finishUnwatched(ctx)
		case <-ctx.Done():
			return fmt.Errorf("wait for killed container %s%s: %w", c.id, c.hangsOn(), context.Cause(ctx))
		case <-limit.C:
			return fmt.Errorf("container %s is still there %v after SIGKILL%s: %w", c.id, killWait, c.hangsOn(), context.DeadlineExceeded)
		}
	}
}

// finishUnwatched ends a container whose process is gone and which the monitor
// does not know, because it could not take it over: nobody will tell its exit.
func (c *Container) finishUnwatched(ctx context.Context) {
	s := c.Status()
	if s.Process.Alive() {
		return
	}
	watched, err := c.m.monitor.List(ctx)
	if err != nil || slices.ContainsFunc(watched, func(w monitor.ContainerState) bool { return w.ID == c.id }) {
		return
	}
	c.finishLost()
}

// hangsOn says where in the kernel a process that will not die is stuck.
func (c *Container) hangsOn() string {
	pid := c.Status().Process.PID
	wchan, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/wchan")
	if err != nil || len(wchan) == 0 || string(wchan) == "0" {
		return ""
	}
	return fmt.Sprintf(" (process %d hangs in the kernel at %s)", pid, wchan)
}

// Kill ends the container at once, whether it runs or has only been created,
// and returns when it is Exited.
func (c *Container) Kill(ctx context.Context) error {
	s := c.Status()
	if s.pending() && s.Starting {
		// Its processes are about to come to life, and cannot be found before.
		if err := c.startFinished(ctx); err != nil {
			return err
		}
		s = c.Status()
	}
	if s.pending() && !s.Starting {
		c.finish(exitCodeKilled, ReasonError, "the container was never started")
		return nil
	}
	switch s.State {
	case Created, Running:
		return c.killAndWait(ctx)
	default:
		return nil
	}
}

// parseSignal reads SIGTERM, TERM or 15; empty is SIGTERM.
func parseSignal(name string) (unix.Signal, error) {
	if name == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig, nil
	}
	if sig, ok := realTimeSignal(upper); ok {
		return sig, nil
	}
	return 0, fmt.Errorf("stop signal %q is not known", name)
}

// realTimeSignal knows SIGRTMIN+n and SIGRTMAX-n as the C library counts them.
func realTimeSignal(name string) (unix.Signal, bool) {
	const rtmin, rtmax = 34, 64
	for prefix, base := range map[string]int{"SIGRTMIN": rtmin, "SIGRTMAX": rtmax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		offset := 0
		if rest != "" {
			var err error
			if offset, err = strconv.Atoi(rest); err != nil {
				return 0, false
			}
		}
		if n := base + offset; n >= rtmin && n <= rtmax {
			return unix.Signal(n), true
		}
	}
	return 0, false
}

// ignoreGone treats a process that is not there any more as signalled.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
