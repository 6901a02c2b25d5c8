package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Pause stops all processes of a running container where they are, until
// Unpause, Stop or Kill. One that is paused already is a success.
func (c *Container) Pause(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.expect(Running); err != nil {
		return err
	}
	s := c.Status()
	if s.Paused {
		return nil
	}
	// What is to be comes first: after a crash Recover looks what it came to.
	if err := c.setPaused(true); err != nil {
		return err
	}
	err = c.m.config.Cgroups.Freeze(ctx, s.Cgroup)
	if err == nil && s.life.killed.Load() {
		// Whoever kills it may have looked before it was frozen.
		err = fmt.Errorf("it is being killed: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		if thawErr := c.thaw(); thawErr != nil {
			err = fmt.Errorf("%w; %w", err, thawErr)
		}
		return fmt.Errorf("pause container %s: %w", c.id, err)
	}
	return nil
}

// Unpause lets the processes of a paused container go on. One that is not paused
// is errdefs.ErrFailedPrecondition.
func (c *Container) Unpause(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.Status().Paused {
		return fmt.Errorf("container %s is not paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return c.thaw()
}

// thaw lets the processes of the container go on, if it is paused. It waits for
// no operation: a container that is to end must not wait for one that hangs.
func (c *Container) thaw() error {
	s := c.Status()
	if !s.Paused {
		return nil
	}
	if err := c.m.config.Cgroups.Thaw(s.Cgroup); err != nil {
		return err
	}
	return c.setPaused(false)
}

// setPaused notes that a running container is paused, or is not any more.
func (c *Container) setPaused(paused bool) error {
	c.mu.Lock()
	defer c.unlockAndTell()
	if s := c.status.Load(); s.State != Running || s.Paused == paused {
		return nil
	}
	if paused {
		return c.changeLocked(func(s *Status) { s.Paused = true })
	}
	c.insistLocked(func(s *Status) { s.Paused = false })
	return nil
}

// recoverFreezer makes the record and the kernel agree. What is frozen without a
// record of it a checkpoint left, whose daemon died.
func (c *Container) recoverFreezer() error {
	s := c.Status()
	if s.Cgroup == "" {
		return nil
	}
	frozen, err := c.m.config.Cgroups.Frozen(s.Cgroup)
	if err != nil || frozen == s.Paused {
		return err
	}
	if s.Paused {
		return c.setPaused(false)
	}
	return c.m.config.Cgroups.Thaw(s.Cgroup)
}

// Signal sends a signal to the first process of a running container. SIGKILL is
// Kill. A container that does not run is errdefs.ErrFailedPrecondition. One that
// is paused goes on if the signal is the one that stops it, and else gets it
// when it does.
func (c *Container) Signal(ctx context.Context, sig unix.Signal) error {
	if err := c.startFinished(ctx); err != nil {
		return err
	}
	if err := c.expect(Running); err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		return c.Kill(ctx)
	}
	s := c.Status()
	if err := ignoreGone(s.Process.Signal(sig)); err != nil {
		return fmt.Errorf("send signal %d to container %s: %w", sig, c.id, err)
	}
	if stop, err := parseSignal(s.StopSignal); err == nil && stop == sig {
		return c.thaw()
	}
	return nil
}

// PIDs lists the processes of the container, as the host counts them.
func (c *Container) PIDs() ([]int, error) {
	s := c.Status()
	if s.State != Running && s.State != Created || s.Cgroup == "" {
		return nil, nil
	}
	return c.m.config.Cgroups.Processes(s.Cgroup)
}

// ParseSignal reads SIGTERM, TERM or 15; empty is SIGTERM. What it does not know
// is errdefs.ErrInvalidArgument.
func ParseSignal(name string) (unix.Signal, error) {
	sig, err := parseSignal(name)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return sig, nil
}
