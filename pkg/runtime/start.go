package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// Start lets the container's process go. A process that cannot be started
// leaves the container Exited with code 128 and reason StartError.
func (c *Container) Start(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.expect(Created); err != nil {
		return err
	}
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	run := c.letGo
	if c.Status().pending() {
		run = c.restore
	}
	if err := c.change(func(s *Status) { s.Starting = true; s.StartedAt = time.Now() }); err != nil {
		return err
	}
	if err := run(ctx, runtime); err != nil {
		return c.startFailed(ctx, err)
	}
	c.mu.Lock()
	defer c.unlockAndTell()
	// It runs, whether or not that can be saved: recovery finds it out, because
	// the record says Starting.
	c.insistLocked(func(s *Status) {
		// It may have come and gone before this line.
		if s.State == Created {
			s.State, s.Starting = Running, false
		}
	})
	return nil
}

// letGo makes the waiting init execute the container's program.
func (c *Container) letGo(ctx context.Context, runtime *oci.Runtime) error {
	s := c.Status()
	if !runtime.StartsByFIFO(s.Hooks) {
		return runtime.Start(ctx, c.id, c.logFile())
	}
	request := monitor.ReleaseRequest{FIFO: runtime.ExecFIFO(c.id), Init: s.Process, Executable: s.InitExecutable}
	ctx, end := progress.Start(ctx, "monitor release", "container.id", c.id)
	err := c.m.monitor.Release(ctx, request)
	if errors.Is(err, monitor.ErrMonitorLost) && ctx.Err() == nil {
		err = c.m.monitor.Release(ctx, request) // the next one knows what the last one did
	}
	end(err)
	return err
}

// startFailed ends a container whose start failed or was given up on: a
// process that is let go later must not run behind everybody's back.
func (c *Container) startFailed(ctx context.Context, cause error) error {
	cause = fmt.Errorf("start container: %w", cause)
	c.finish(exitCodeStartError, ReasonStartError, cause.Error())
	if err := c.kill(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("%w; %w", cause, err)
	}
	return cause
}

// kill sends SIGKILL to all processes of the container and does not wait.
func (c *Container) kill(ctx context.Context) error {
	s := c.Status()
	s.life.killed.Store(true)
	if s.Process.PID > 0 {
		if err := ignoreGone(s.Process.Signal(unix.SIGKILL)); err != nil {
			return err
		}
	}
	// Version 1 of the freezer keeps even SIGKILL waiting.
	if err := c.thaw(); err != nil {
		return err
	}
	if s.SharedPID && s.Cgroup != "" {
		ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
		defer cancel()
		return c.m.config.Cgroups.Kill(ctx, s.Cgroup)
	}
	return nil
}
