package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// StartRequest lets go the process of a created container.
type StartRequest struct {
	ID      string
	LogFile string
	// Init is the process that waits.
	Init linux.Process
	// Hooks: the container has hooks, which only the binary can run.
	Hooks bool
}

// Start lets the process of a created container go.
func (r *Runtime) Start(ctx context.Context, s StartRequest) error {
	if r.release && !s.Hooks {
		return r.openFIFO(ctx, s)
	}
	return r.run(ctx, s.LogFile, "start", s.ID)
}

// openFIFO does what runc start does, at no fork: the init waits until somebody
// opens its FIFO for reading, writes one byte to it and executes the program.
func (r *Runtime) openFIFO(ctx context.Context, s StartRequest) (err error) {
	path := r.ExecFIFO(s.ID)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("let container %s go: %w", s.ID, &os.PathError{Op: "open", Path: path, Err: err})
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	pidfd, err := s.Init.Open()
	if err != nil {
		return fmt.Errorf("let container %s go: its init has died: %w", s.ID, err)
	}
	defer func() { err = errors.Join(err, pidfd.Close()) }()

	const step = 100 * time.Millisecond // how soon the end of ctx is noticed
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(ready, int(step.Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("let container %s go: wait for its init: %w", s.ID, err)
		case ready[0].Revents&unix.POLLIN != 0:
			return os.Remove(path) // a container with this file counts as created
		case ready[1].Revents != 0:
			return fmt.Errorf("let container %s go: its init has died", s.ID)
		case ctx.Err() != nil:
			return fmt.Errorf("let container %s go: %w", s.ID, context.Cause(ctx))
		}
	}
}
