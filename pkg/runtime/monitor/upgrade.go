package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// handover is <Dir>/handover.json: what a monitor that executes another binary
// in its own place leaves open for it. The process stays the same, so it stays
// the parent of its children and the holder of its lock; everything else is
// taken over as from a monitor that died.
type handover struct {
	PID        int                `json:"pid"`
	Lock       int                `json:"lock"`
	Listener   int                `json:"listener"`
	Containers map[string]heldFDs `json:"containers"`
}

// heldFDs are the descriptors of one container; 0 is none.
type heldFDs struct {
	Stdin  int `json:"stdin,omitempty"`
	Stdout int `json:"stdout,omitempty"`
	Stderr int `json:"stderr,omitempty"`
	TTY    int `json:"tty,omitempty"`
}

const upgradeTime = 30 * time.Second

func (h handover) fds() []int {
	fds := []int{h.Lock, h.Listener}
	for _, c := range h.Containers {
		for _, fd := range []int{c.Stdin, c.Stdout, c.Stderr, c.TTY} {
			if fd > 0 {
				fds = append(fds, fd)
			}
		}
	}
	return fds
}

// loadHandover returns what an earlier self left, or nothing.
func loadHandover(dir string) handover {
	path := filepath.Join(dir, handoverName)
	h, _, err := linux.LoadRecord[handover](path)
	if err != nil || h.PID != os.Getpid() || !inheritedFDs(h) {
		h = handover{}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return handover{} // it must not be believed twice
	}
	for _, fd := range h.fds() {
		unix.CloseOnExec(fd)
	}
	return h
}

// inheritedFDs tells a handover to this process from one to an earlier process
// with the same pid: what it speaks of must be open and inherited.
func inheritedFDs(h handover) bool {
	for _, fd := range h.fds() {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd <= 2 || err != nil || flags&unix.FD_CLOEXEC != 0 {
			return false
		}
	}
	return true
}

// upgrade executes exe in place of the running binary. It returns only if that
// fails, and then everything goes on as before.
func (m *server) upgrade(ctx context.Context, exe string) error {
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	if exe == "" {
		exe = m.exe
	}
	if err := unix.Access(exe, unix.X_OK); err != nil {
		return fmt.Errorf("%w: execute %s: %w", ErrInvalid, exe, err)
	}
	all, err := m.settleCreates(ctx)
	defer func() {
		m.mu.Lock()
		m.upgrading = false
		m.mu.Unlock()
	}()
	if err != nil {
		return err
	}
	resume := make(chan struct{})
	defer close(resume)
	h := handover{PID: os.Getpid(), Lock: int(m.lock.Fd()), Containers: map[string]heldFDs{}}
	for _, c := range all {
		held, err := c.pause(ctx, resume)
		if err != nil {
			return fmt.Errorf("pause container %s: %w", c.copyRecord().ID, err)
		}
		h.Containers[c.copyRecord().ID] = held
	}
	if h.Listener, err = dupListener(m.listener); err != nil {
		return err
	}
	defer closeFD(h.Listener)
	return m.execute(exe, h)
}

// settleCreates refuses new creates and waits for those under way.
func (m *server) settleCreates(ctx context.Context) ([]*container, error) {
	m.mu.Lock()
	m.upgrading = true
	var all []*container
	for _, c := range m.containers {
		all = append(all, c)
	}
	m.mu.Unlock()
	var live []*container
	for _, c := range all {
		select {
		case <-c.settled:
		case <-ctx.Done():
			return nil, fmt.Errorf("upgrade monitor: wait for creates: %w", ctx.Err())
		}
		if !c.aborted {
			live = append(live, c)
		}
	}
	return live, nil
}

// pause holds a container's pump between two batches until resume is closed
// and returns its descriptors.
func (c *container) pause(ctx context.Context, resume <-chan struct{}) (heldFDs, error) {
	if c.pump == nil {
		return heldFDs{}, nil
	}
	paused := make(chan heldFDs, 1)
	accepted := c.pump.do(func(*buffers) {
		var held heldFDs
		if out := c.pump.streams[0]; out.tty {
			held.TTY = max(out.source, 0)
		} else {
			held.Stdout = max(out.source, 0)
			held.Stderr = max(c.pump.streams[1].source, 0)
		}
		paused <- held
		<-resume
	})
	if !accepted {
		return heldFDs{}, nil
	}
	select {
	case held := <-paused:
		c.mu.Lock()
		held.Stdin = max(c.stdin, 0)
		c.mu.Unlock()
		return held, nil
	case <-ctx.Done():
		return heldFDs{}, ctx.Err()
	}
}

// dupListener duplicates the socket and leaves it nonblocking, unlike File.
func dupListener(l *net.UnixListener) (int, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup := -1
	var dupErr error
	err = raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	return dup, errors.Join(err, os.NewSyscallError("duplicate listener", dupErr))
}

func (m *server) execute(exe string, h handover) error {
	if err := linux.SaveRecord(filepath.Join(m.dir, handoverName), h, linux.SurviveProcess); err != nil {
		return err
	}
	for _, fd := range h.fds() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			m.logger.Error("descriptor is not handed over", "fd", fd, "error", err)
		}
	}
	m.logger.Info("execute in place", "exe", exe)
	err := unix.Exec(exe, []string{"cri-node", "monitor", "--dir", m.dir}, append(os.Environ(), originalOOM+"="+strconv.Itoa(m.oom.original)))
	for _, fd := range h.fds() {
		unix.CloseOnExec(fd)
	}
	return errors.Join(fmt.Errorf("execute %s: %w", exe, err), os.Remove(filepath.Join(m.dir, handoverName)))
}
