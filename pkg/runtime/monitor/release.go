package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// ReleaseRequest lets a created container's init go where the OCI runtime, like
// runc, has it wait for a reader of a FIFO: what its start command would do.
// The monitor does it, because between the first and the last step nobody may
// die: the init would be told, and nobody would know.
type ReleaseRequest struct {
	// FIFO of the waiting init. One that is gone means that it was let go.
	FIFO string `json:"fifo"`
	// Init is the process that waits.
	Init linux.Process `json:"init"`
	// Executable is what Init executed when it had been created. Another one
	// means that it was let go, although the FIFO is still there.
	Executable string `json:"executable"`
}

// releaseTime bounds one release; it takes a millisecond.
const releaseTime = 30 * time.Second

// Release lets an init go. It may be repeated, also by another daemon.
func (s *Supervisor) Release(ctx context.Context, req ReleaseRequest) error {
	l, err := s.current(ctx)
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, l, opRelease, req)
	return err
}

// release goes on when its caller is gone.
func (m *server) release(raw json.RawMessage) (err error) {
	req, err := decode[ReleaseRequest](raw)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(req.FIFO) {
		return fmt.Errorf("%w: FIFO %q is not absolute", ErrInvalid, req.FIFO)
	}
	// Before the FIFO, which lets the init go: it may be dead and reaped in the
	// moment after.
	pidfd, died := req.Init.Open()
	if died == nil {
		defer func() { err = errors.Join(err, pidfd.Close()) }()
	}
	fd, err := unix.Open(req.FIFO, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: req.FIFO, Err: err}
	}
	defer closeFD(fd)
	if died != nil {
		return fmt.Errorf("init has died: %w", died)
	}
	if err := awaitRelease(req, fd, pidfd); err != nil {
		return err
	}
	// A container with this file counts as created.
	if err := os.Remove(req.FIFO); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// awaitRelease waits until the init has written its byte, or turns out to have
// been let go earlier.
func awaitRelease(req ReleaseRequest, fifo int, pidfd *os.File) error {
	const step = 50 * time.Millisecond
	for deadline := time.Now().Add(releaseTime); time.Now().Before(deadline); {
		ready := []unix.PollFd{{Fd: int32(fifo), Events: unix.POLLIN}, {Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(ready, int(step.Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for init: %w", os.NewSyscallError("poll", err))
		case ready[0].Revents&unix.POLLIN != 0:
			return nil
		case ready[1].Revents != 0:
			return errors.New("init has died")
		}
		now, err := req.Init.Executable()
		if err == nil && req.Executable != "" && now != req.Executable {
			return nil
		}
	}
	return fmt.Errorf("init does not come to its FIFO within %v", releaseTime)
}
