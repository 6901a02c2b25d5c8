package monitor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// containerRecord is <Dir>/containers/<id>.json of the monitor: all that a new
// monitor needs to take a container over.
type containerRecord struct {
	ID          string `json:"id"`
	Dir         string `json:"dir"`
	TTY         bool   `json:"tty,omitempty"`
	Stdin       bool   `json:"stdin,omitempty"`
	StdinOnce   bool   `json:"stdinOnce,omitempty"`
	StdinClosed bool   `json:"stdinClosed,omitempty"`
	// StdinUsed: a client has been attached to a stdin that ends with it.
	StdinUsed   bool          `json:"stdinUsed,omitempty"`
	LogPath     string        `json:"logPath,omitempty"`
	MaxLineSize int           `json:"maxLineSize"`
	KillCgroup  bool          `json:"killCgroup,omitempty"`
	Process     linux.Process `json:"process"`
	Cgroup      Cgroup        `json:"cgroup"`
}

// A container is one that the monitor looks after.
//
//	CREATING --runtime done--> LIVE --init exits--> DRAINING --> EXITED --Forget--> gone
//	    '--runtime failed--> gone
type container struct {
	m       *server
	journal *journal
	pump    *pump
	// settled is closed when the create has succeeded or failed; aborted,
	// which is set before, says which. done is closed at EXITED.
	settled chan struct{}
	aborted bool
	done    chan struct{}

	mu     sync.Mutex
	record containerRecord
	stdin  int // our end of the stdin FIFO, or -1
	tty    int // a duplicate of the pty's master, or -1
	// inputs are the clients' duplicates of either.
	inputs map[*os.File]struct{}
	// pidfd is of an init that is not our child.
	pidfd      *os.File
	pidfdToken int32
	oom        *oomWatch // nil without version 2 of cgroups
	exit       *Exit
}

func newContainer(m *server, r containerRecord) *container {
	return &container{
		m: m, record: r, stdin: -1, tty: -1, inputs: map[*os.File]struct{}{},
		settled: make(chan struct{}), done: make(chan struct{}),
	}
}

// isSettled reports whether the create is over.
func (c *container) isSettled() bool {
	select {
	case <-c.settled:
		return true
	default:
		return false
	}
}

func (c *container) state() ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ContainerState{
		ID: c.record.ID, Dir: c.record.Dir, Process: c.record.Process, Cgroup: c.record.Cgroup,
		LogPath: c.record.LogPath, TTY: c.record.TTY, Exit: c.exit,
		StdinOpen: c.record.Stdin && !c.record.StdinClosed && c.exit == nil,
	}
}

// exited is the reaper's call: it notes the status before the zombie goes.
func (c *container) exited(status unix.WaitStatus, at time.Time) {
	c.mu.Lock()
	if c.journal.page != nil { // a failed create has closed it
		c.journal.setExit(status, at)
	}
	c.mu.Unlock()
	c.m.work.Go(c.finish)
}

// finish completes a container whose init has exited. The order is the point:
// whoever sees the exit finds the log whole, the record written and nothing of
// the container running.
func (c *container) finish() {
	<-c.settled
	if c.aborted {
		return
	}
	r := c.copyRecord()
	logger := c.m.logger.With("containerID", r.ID)
	// 1. Nothing writes any more.
	if r.KillCgroup {
		if err := r.Cgroup.killAll(c.m.ctx); err != nil {
			logger.Warn("processes of an exited container are left", "error", err)
		}
	}
	// 2. Whoever hears of the exit may delete the cgroup.
	oom := c.oomKilled()
	// 3. The log is complete.
	c.pump.finish(drainTime)
	// 4. The record, then the news.
	exit := c.makeExit(oom)
	if err := linux.SaveRecord(filepath.Join(r.Dir, exitName), exit, linux.SurviveProcess); err != nil {
		logger.Error("exit record is not written", "error", err)
	}
	c.closeAll()
	if err := removeStdio(r.Dir); err != nil {
		logger.Warn("files of an exited container are left", "error", err)
	}
	c.setExit(exit)
	c.m.exited(Event{ID: r.ID, Process: r.Process, Exit: &exit})
}

func (c *container) setExit(e Exit) {
	c.mu.Lock()
	c.exit = &e
	c.mu.Unlock()
	close(c.done)
}

func (c *container) makeExit(oom bool) Exit {
	p := c.journal.current()
	e := Exit{OOMKilled: oom, LogBytesDropped: p.dropped}
	if p.dropped > 0 {
		e.LogError = unix.Errno(p.errno).Error()
	}
	status, at, ok := c.journal.exit()
	if !ok {
		e.Lost, e.Code, e.FinishedAt = true, lostCode, time.Now()
		return e
	}
	e.FinishedAt = at
	e.setStatus(status)
	return e
}

// setStatus translates a wait status.
func (e *Exit) setStatus(status unix.WaitStatus) {
	e.Lost = false
	e.Code, e.Signal = status.ExitStatus(), 0
	if status.Signaled() {
		e.Signal = int(status.Signal())
		e.Code = signalExitCodeBase + e.Signal
	}
}

// finish lets the pump read what there is, at most for patience, and waits
// until the log is complete and closed.
func (p *pump) finish(patience time.Duration) {
	p.do(func(*buffers) {
		p.finishing, p.held = true, false
		for _, s := range p.streams {
			if s != nil {
				s.ready.Store(true)
			}
		}
	})
	timer := time.AfterFunc(patience, func() { p.do(func(*buffers) { p.expired = true }) })
	<-p.closed
	timer.Stop()
}

// abort closes the pump without a log.
func (p *pump) abort() {
	p.do(func(*buffers) { p.logPath, p.finishing, p.expired = "", true, true })
	<-p.closed
}

func (c *container) copyRecord() containerRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record
}

// closeAll closes what the container has open besides its pump.
func (c *container) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeInputsLocked()
	closeFDs([]int{c.stdin, c.tty})
	c.stdin, c.tty = -1, -1
	if c.pidfd != nil {
		_ = c.pidfd.Close() // nothing is written through it
		c.pidfd = nil
	}
	if c.oom != nil {
		c.oom.close(c.m.poller)
		c.oom = nil
	}
	if c.journal != nil {
		if err := c.journal.close(); err != nil {
			c.m.logger.Warn("journal stays mapped", "error", err)
		}
	}
}

// reopenLog changes to a new log file between two batches.
func (c *container) reopenLog(ctx context.Context) error {
	if c.state().Exit != nil {
		return fmt.Errorf("reopen log: %w: it has exited", ErrState)
	}
	if c.copyRecord().LogPath == "" {
		return nil
	}
	result := make(chan error, 1)
	if !c.pump.do(func(*buffers) { result <- c.pump.reopen() }) {
		return fmt.Errorf("reopen log: %w: it has exited", ErrState)
	}
	select {
	case err := <-result:
		return err
	case <-c.pump.closed:
		return fmt.Errorf("reopen log: %w: it has exited", ErrState)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pump) reopen() error {
	if p.finishing {
		return fmt.Errorf("reopen log: %w: it has exited", ErrState)
	}
	fd, err := openLogFile(p.logPath)
	if err != nil {
		return err
	}
	closeFD(p.logFD)
	p.logFD = fd
	return nil
}

func (c *container) resize(width, height uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty < 0 {
		return fmt.Errorf("resize terminal: %w: it has none", ErrState)
	}
	size := &unix.Winsize{Row: height, Col: width}
	return os.NewSyscallError("resize terminal", unix.IoctlSetWinsize(c.tty, unix.TIOCSWINSZ, size))
}

// closeStdin closes the container's stdin for good.
func (c *container) closeStdin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.record.Stdin || c.record.StdinClosed || c.exit != nil {
		return nil
	}
	c.record.StdinClosed = true
	if err := c.m.saveRecord(c.record); err != nil {
		c.record.StdinClosed = false
		return err
	}
	c.closeInputsLocked()
	closeFD(c.stdin)
	c.stdin = -1
	return nil
}

// dupTTY returns a duplicate of the pty's master, or -1.
func (c *container) dupTTY() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty < 0 {
		return -1, nil
	}
	fd, err := unix.FcntlInt(uintptr(c.tty), unix.F_DUPFD_CLOEXEC, 0)
	return fd, os.NewSyscallError("duplicate terminal", err)
}

// setTTY connects a pty's master, of which it takes ownership. The result
// comes to the channel when the pump has got to it.
func (c *container) setTTY(fd int) <-chan error {
	result := make(chan error, 1)
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		closeFD(fd)
		result <- os.NewSyscallError("duplicate terminal", err)
		return result
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty >= 0 || !c.record.TTY || c.exit != nil {
		closeFDs([]int{fd, dup})
		result <- nil
		return result
	}
	c.tty = dup
	return c.pump.connect(0, fd)
}
