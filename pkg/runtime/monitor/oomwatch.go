package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An oomWatch hears of out-of-memory kills in a container's cgroup of version 2
// when they happen. To read the count when the container has ended is too late
// where systemd made the cgroup: it removes an empty scope at once, and may be
// faster. As the kernel may hold a notice back for 10 ms, the count of the cgroup
// above, which lives on, is the last resort: see container.oomKilled.
type oomWatch struct {
	events *os.File // memory.events
	token  int32
	parent string
	// base is what of the parent's count is not this container's.
	base   atomic.Int64
	killed atomic.Bool
}

const memoryEvents = "memory.events"

// watchOOM begins to listen, where the container has a cgroup of version 2 with
// the memory controller.
func (c *container) watchOOM() error {
	dir := c.copyRecord().Cgroup.Unified
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, memoryEvents)
	// Not with os.OpenFile, which would have the Go runtime poll it as well.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	w := &oomWatch{events: os.NewFile(uintptr(fd), path), parent: filepath.Dir(dir)}
	if strings.HasSuffix(w.parent, ".scope") { // crun makes a cgroup inside the scope, and both go
		w.parent = filepath.Dir(w.parent)
	}
	w.base.Store(oomKills(w.parent))
	token, err := c.m.poller.add(fd, func() { c.m.oomNotice(w) })
	if err != nil {
		return errors.Join(fmt.Errorf("watch %s: %w", path, err), w.events.Close())
	}
	c.mu.Lock()
	w.token, c.oom = token, w
	c.mu.Unlock()
	return nil
}

// close ends the listening; the poller may be in oomNotice still.
func (w *oomWatch) close(p *poller) {
	p.remove(int(w.events.Fd()), w.token)
	_ = w.events.Close() // only read
}

// oomNotice looks at a cgroup of which the kernel told something.
func (m *server) oomNotice(w *oomWatch) {
	var buf [512]byte
	n, err := w.events.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return // the cgroup is gone, or the container over
	}
	if keyedCount(buf[:n], "oom_kill") > 0 && !w.killed.Swap(true) {
		m.forgive(w.parent)
	}
}

// forgive takes what the count of a parent has become off the containers below it
// that are not known to have caused it.
func (m *server) forgive(parent string) {
	kills := oomKills(parent)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.containers {
		c.mu.Lock()
		if c.oom != nil && c.oom.parent == parent {
			c.oom.base.Store(kills)
		}
		c.mu.Unlock()
	}
}

// oomKilled reports whether the kernel has killed a process of an ended container
// for want of memory. Without a notice or a cgroup to look at, a container whose
// init was killed, or ended as a shell does whose child was, is said to have been
// if there was a kill below the same parent since, and no other container is known
// for it.
func (c *container) oomKilled() bool {
	cgroup := c.copyRecord().Cgroup
	killed := cgroup.oomKilled()
	c.mu.Lock()
	w := c.oom
	c.mu.Unlock()
	if w == nil || w.killed.Load() {
		return killed || w != nil
	}
	if _, err := os.ReadFile(w.events.Name()); !killed && err != nil {
		status, _, ok := c.journal.exit()
		killed = ok && looksKilled(status) && oomKills(w.parent) > w.base.Load()
	}
	if killed {
		w.killed.Store(true)
		c.m.forgive(w.parent)
	}
	return killed
}

// looksKilled reports whether SIGKILL has ended the process, or a shell says
// so of its child.
func looksKilled(status unix.WaitStatus) bool {
	return status.Signaled() && status.Signal() == unix.SIGKILL || status.ExitStatus() == signalExitCodeBase+int(unix.SIGKILL)
}

// oomKills counts the out-of-memory kills in a cgroup and below it, 0 where
// nobody counts.
func oomKills(dir string) int64 {
	b, err := os.ReadFile(filepath.Join(dir, memoryEvents))
	if err != nil {
		return 0
	}
	return keyedCount(b, "oom_kill")
}
