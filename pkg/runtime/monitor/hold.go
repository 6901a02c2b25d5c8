package monitor

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// holds is what a Supervisor keeps of each running container for the time
// between the death of one monitor and the start of the next:
//   - readers of the output pipes: a pipe that nobody has open loses its bytes
//     when the container exits;
//   - a writer of the stdin pipe, without which the container reads its end;
//   - the master of the terminal, without which the container is hung up;
//   - a pidfd, which tells the exit status even after PID 1 has reaped it.
type holds struct {
	mu         sync.Mutex
	containers map[string]*hold
}

type hold struct {
	stdin, tty int
	outputs    []int
	process    linux.Process
	pidfd      *os.File
}

func newHolds() *holds { return &holds{containers: map[string]*hold{}} }

// hold takes ownership of fds, which is a terminal's master or empty. What
// cannot be opened any more has ended, and is not needed.
func (h *holds) hold(c ContainerState, fds []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.containers[c.ID]
	if old != nil && old.process == c.Process {
		if !c.StdinOpen { // its one client has gone with the last monitor
			closeFD(old.stdin)
			old.stdin = -1
		}
		if old.tty < 0 && len(fds) > 0 {
			old.tty, fds = fds[0], fds[1:]
		}
		closeFDs(fds)
		return
	}
	if old != nil {
		old.close()
	}
	n := &hold{stdin: -1, tty: -1, process: c.Process}
	h.containers[c.ID] = n
	if len(fds) > 0 {
		n.tty = fds[0]
		closeFDs(fds[1:])
	}
	if pidfd, err := c.Process.Open(); err == nil {
		n.pidfd = pidfd
	}
	if c.TTY {
		return
	}
	for i := range streamCount {
		if fd, err := openReader(c.Dir, i); err == nil {
			n.outputs = append(n.outputs, fd)
		}
	}
	if c.StdinOpen {
		if fd, err := openStdin(c.Dir); err == nil {
			n.stdin = fd
		}
	}
}

// dupTTY returns a duplicate of a held terminal's master, or -1.
func (h *holds) dupTTY(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.containers[id]
	if n == nil || n.tty < 0 {
		return -1
	}
	fd, err := unix.FcntlInt(uintptr(n.tty), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// exitStatus tells how a held container's init ended.
func (h *holds) exitStatus(id string, process linux.Process) (unix.WaitStatus, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.containers[id]
	if n == nil || n.pidfd == nil || process.PID != 0 && n.process != process {
		return 0, false
	}
	return n.process.ExitStatus(n.pidfd)
}

func (h *holds) closeStdin(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.containers[id]; n != nil {
		closeFD(n.stdin)
		n.stdin = -1
	}
}

func (h *holds) release(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.containers[id]; n != nil {
		n.close()
		delete(h.containers, id)
	}
}

// releaseOf is release, unless another process has the id by now.
func (h *holds) releaseOf(id string, process linux.Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.containers[id]; n != nil && (process.PID == 0 || n.process == process) {
		n.close()
		delete(h.containers, id)
	}
}

func (h *holds) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, n := range h.containers {
		n.close()
		delete(h.containers, id)
	}
}

func (n *hold) close() {
	closeFDs([]int{n.stdin, n.tty})
	closeFDs(n.outputs)
	if n.pidfd != nil {
		_ = n.pidfd.Close() // nothing is written through it
	}
}
