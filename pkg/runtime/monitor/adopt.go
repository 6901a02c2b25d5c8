package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// adoptAll takes over what an earlier monitor looked after. One container that
// cannot be taken over does not keep the others from it.
func (m *server) adoptAll(h handover) error {
	dir := filepath.Join(m.dir, indexName)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if linux.IsTemporary(e.Name()) {
			if err := os.Remove(path); err != nil {
				m.logger.Warn("temporary file is left", "error", err)
			}
			continue
		}
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue
		}
		if err := m.adopt(id, h.Containers[id]); err != nil {
			m.logger.Error("container is not taken over", "containerID", id, "error", err)
			if errors.Is(err, linux.ErrBroken) {
				// Kept for a person to look at, and out of the way.
				_ = os.Rename(path, path+".broken")
			}
		}
	}
	return nil
}

// adopt takes one container over.
func (m *server) adopt(id string, open heldFDs) error {
	r, sameBoot, err := linux.LoadRecord[containerRecord](m.recordPath(id))
	if err != nil {
		return err
	}
	if r.ID != id || r.MaxLineSize <= 0 {
		return fmt.Errorf("%w: record of %s speaks of %q", linux.ErrBroken, id, r.ID)
	}
	if _, err := os.Stat(r.Dir); errors.Is(err, fs.ErrNotExist) {
		return m.dropRecord(id) // its owner has removed it
	}
	c := newContainer(m, r)
	close(c.settled)
	exit, _, err := linux.LoadRecord[Exit](filepath.Join(r.Dir, exitName))
	switch {
	case err == nil:
		return m.adoptExited(c, exit)
	case !sameBoot:
		return m.adoptExited(c, Exit{Code: lostCode, Lost: true})
	case !errors.Is(err, fs.ErrNotExist):
		m.logger.Warn("exit record is made again", "containerID", id, "error", err)
	}
	if err := c.adoptOutput(open); err != nil {
		return err
	}
	m.containers[id] = c
	if err := c.watchOOM(); err != nil {
		m.logger.Warn("out-of-memory kills may be missed", "containerID", id, "error", err)
	}
	c.adoptProcess()
	return nil
}

func (m *server) adoptExited(c *container, exit Exit) error {
	c.setExit(exit)
	m.containers[c.record.ID] = c
	return removeStdio(c.record.Dir)
}

// adoptOutput opens journal, spools, pipes and log again.
func (c *container) adoptOutput(open heldFDs) error {
	r := c.record
	j, err := openJournal(filepath.Join(r.Dir, journalName), false)
	if err != nil {
		// Without it nobody knows what of the spools is in the log already.
		c.m.logger.Error("output under way is given up", "containerID", r.ID, "error", err)
		if j, err = openJournal(filepath.Join(r.Dir, journalName), true); err != nil {
			return err
		}
		for i := range streamCount {
			if err := os.Remove(spoolPath(r.Dir, i, 0)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return errors.Join(err, j.close())
			}
		}
	}
	c.journal = j
	if c.pump, err = newPump(c.m, r, j); err != nil {
		return errors.Join(err, j.close())
	}
	// First what the last monitor had begun. Nobody waits for it: the log may
	// be on a disk that hangs.
	c.pump.do(c.pump.redo)
	if r.TTY {
		c.adoptTTY(open)
	} else {
		c.adoptPipes(open)
	}
	return nil
}

func (c *container) adoptTTY(open heldFDs) {
	if open.TTY <= 0 {
		return // the daemon has a duplicate and brings it
	}
	c.warnLost(0, c.setTTY(open.TTY))
}

func (c *container) adoptPipes(open heldFDs) {
	for i, fd := range [streamCount]int{open.Stdout, open.Stderr} {
		var err error
		if fd <= 0 {
			fd, err = openReader(c.record.Dir, i)
		}
		if err != nil {
			c.m.logger.Error("output is lost", "containerID", c.record.ID, "stream", streamNames[i], "error", err)
			continue
		}
		c.warnLost(i, c.pump.connect(i, fd))
	}
	if !c.record.Stdin || c.record.StdinClosed {
		return
	}
	if c.record.StdinOnce && c.record.StdinUsed {
		c.endUsedStdin(open)
		return
	}
	fd, err := open.Stdin, error(nil)
	if fd <= 0 {
		fd, err = openStdin(c.record.Dir)
	}
	if err == nil {
		c.stdin = fd
	} else if !errors.Is(err, unix.ENXIO) { // the container reads it no more
		c.m.logger.Warn("stdin is lost", "containerID", c.record.ID, "error", err)
	}
}

// endUsedStdin closes a stdin whose one client has gone with the last monitor.
func (c *container) endUsedStdin(open heldFDs) {
	c.stdin = -1
	if open.Stdin > 0 {
		c.stdin = open.Stdin
	}
	if err := c.closeStdin(); err != nil {
		c.m.logger.Error("stdin is not closed", "containerID", c.record.ID, "error", err)
	}
}

// warnLost reports what connecting an output comes to, later.
func (c *container) warnLost(stream int, result <-chan error) {
	c.m.work.Go(func() {
		if err := <-result; err != nil {
			c.m.logger.Error("output is lost", "containerID", c.copyRecord().ID, "stream", streamNames[stream], "error", err)
		}
	})
}

// adoptProcess watches the init: as its parent after an upgrade, else by pidfd.
func (c *container) adoptProcess() {
	m, p := c.m, c.record.Process
	if _, _, noted := c.journal.exit(); noted {
		m.work.Go(c.finish)
		return
	}
	s, err := linux.ReadStat(p.PID)
	if err == nil && s.StartTime == p.StartTime && s.PPID == os.Getpid() {
		if _, err := m.reaper.watch(p.PID, p.StartTime, c.exited); err == nil {
			return
		}
	}
	pidfd, err := p.Open()
	if err != nil {
		m.work.Go(c.finish) // gone, and nobody here knows how
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pidfd = pidfd
	c.pidfdToken, err = m.poller.add(int(pidfd.Fd()), func() { m.work.Go(c.orphanExited) })
	if err != nil {
		m.logger.Error("container is not watched", "containerID", c.record.ID, "error", err)
	}
}

// orphanExited is called when a process that is no child of ours has exited.
func (c *container) orphanExited() {
	c.mu.Lock()
	pidfd := c.pidfd
	c.pidfd = nil // an edge may come twice
	token := c.pidfdToken
	c.mu.Unlock()
	if pidfd == nil {
		return
	}
	c.m.poller.remove(int(pidfd.Fd()), token)
	at := time.Now()
	if status, ok := waitStatus(c.m.ctx, c.record.Process, pidfd); ok {
		c.journal.setExit(status, at)
	}
	if err := pidfd.Close(); err != nil {
		c.m.logger.Warn("pidfd is left", "error", err)
	}
	c.finish()
}

// waitStatus asks for a while: between the pidfd's event and the end of the
// reaping there is a moment in which the kernel says nothing.
func waitStatus(ctx context.Context, p linux.Process, pidfd *os.File) (unix.WaitStatus, bool) {
	const attempts, pause = 20, 10 * time.Millisecond
	for range attempts {
		if status, ok := p.ExitStatus(pidfd); ok {
			return status, true
		}
		if p.Alive() {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, false
		}
	}
	return 0, false
}
