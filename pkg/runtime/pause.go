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
	return fmt.Errorf("pause container %s: %w", c.id, errdefs.ErrNotImplemented)
}

// Unpause lets the processes of a paused container go on. One that is not paused
// is errdefs.ErrFailedPrecondition.
func (c *Container) Unpause(ctx context.Context) error {
	return fmt.Errorf("unpause container %s: %w", c.id, errdefs.ErrNotImplemented)
}

// Signal sends a signal to the first process of a running container. SIGKILL is
// Kill. A container that does not run is errdefs.ErrFailedPrecondition.
func (c *Container) Signal(ctx context.Context, sig unix.Signal) error {
	return fmt.Errorf("signal container %s: %w", c.id, errdefs.ErrNotImplemented)
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
