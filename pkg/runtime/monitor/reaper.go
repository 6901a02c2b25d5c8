package monitor

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// A reaper owns every child of the process: those it forks and those that the
// kernel hands to a subreaper. Nobody else waits. Each child is looked at
// first, told to who watches it, and only then reaped, so that a kill in
// between leaves the zombie with its exit status to the next monitor.
type reaper struct {
	mu       sync.Mutex
	children map[int]func(unix.WaitStatus, time.Time)
	// creating counts creates under way. Meanwhile exits of unknown children
	// are kept: one may be a container's init whose pid is not read yet.
	creating int
	strays   map[int]stray
	signals  chan os.Signal
}

type stray struct {
	startTime uint64
	status    unix.WaitStatus
	at        time.Time
}

func newReaper() *reaper {
	return &reaper{
		children: map[int]func(unix.WaitStatus, time.Time){},
		strays:   map[int]stray{},
		signals:  make(chan os.Signal, 1),
	}
}

// run reaps until ctx is done. Children to adopt must be watched before.
func (r *reaper) run(ctx context.Context) {
	signal.Notify(r.signals, unix.SIGCHLD)
	defer signal.Stop(r.signals)
	for {
		for r.reapOne() {
		}
		select {
		case <-r.signals:
		case <-ctx.Done():
			return
		}
	}
}

// reapOne reports whether there was a child to reap.
func (r *reaper) reapOne() bool {
	pid, status, ok := peek()
	if !ok {
		return false
	}
	at := time.Now()
	r.mu.Lock()
	exited, known := r.children[pid]
	delete(r.children, pid)
	if !known && r.creating > 0 {
		if s, err := linux.ReadStat(pid); err == nil {
			r.strays[pid] = stray{startTime: s.StartTime, status: status, at: at}
		}
	}
	r.mu.Unlock()
	if known {
		exited(status, at)
	}
	var ws unix.WaitStatus
	_ = ignoreEINTR(func() error {
		_, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		return err
	})
	return true
}

// fork starts a child under the lock that the reaper needs to look it up, so
// that no exit is too fast. exited is called once, must not block and must not
// call the reaper.
func (r *reaper) fork(start func() (int, error), exited func(unix.WaitStatus, time.Time)) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := start()
	if err == nil {
		r.children[pid] = exited
	}
	return pid, err
}

// killGroup kills the process group of a child that has not been reaped.
func (r *reaper) killGroup(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.children[pid] != nil {
		_ = unix.Kill(-pid, unix.SIGKILL) // it fails only for a group that has ended
	}
}

// beginCreate and endCreate enclose a create, from before the runtime starts
// until its container's init is watched.
func (r *reaper) beginCreate() {
	r.mu.Lock()
	r.creating++
	r.mu.Unlock()
}

func (r *reaper) endCreate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.creating--
	if r.creating == 0 {
		clear(r.strays)
	}
}

// errNotOurs means that a process is not, and was not lately, our child.
var errNotOurs = errors.New("process is not a child of the monitor")

// watch finds the child that has, or had, pid and started no earlier than
// since, and calls exited when it exits, or at once if it has already.
func (r *reaper) watch(pid int, since uint64, exited func(unix.WaitStatus, time.Time)) (linux.Process, error) {
	r.mu.Lock()
	dead, ok := r.strays[pid]
	delete(r.strays, pid)
	s, err := linux.ReadStat(pid)
	// A stray is still a zombie for a moment after it was noted.
	reaped := ok && dead.startTime >= since && (err != nil || s.StartTime == dead.startTime)
	if !reaped && err == nil && s.PPID == os.Getpid() && s.StartTime >= since && r.children[pid] == nil {
		r.children[pid] = exited
		r.mu.Unlock()
		return linux.Process{PID: pid, StartTime: s.StartTime}, nil
	}
	r.mu.Unlock()
	if !ok || dead.startTime < since {
		return linux.Process{}, errNotOurs
	}
	exited(dead.status, dead.at)
	return linux.Process{PID: pid, StartTime: dead.startTime}, nil
}

// childInfo is the part of siginfo_t that waitid(2) fills.
type childInfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [100]byte
}

const (
	cldExited = 1
	cldDumped = 3
)

// peek finds a child that has exited and leaves it a zombie.
func peek() (pid int, status unix.WaitStatus, ok bool) {
	var info childInfo
	err := ignoreEINTR(func() error {
		return unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if err != nil || info.pid == 0 {
		return 0, 0, false
	}
	switch info.code {
	case cldExited:
		status = unix.WaitStatus(info.status << 8)
	case cldDumped:
		status = unix.WaitStatus(info.status | 0x80)
	default:
		status = unix.WaitStatus(info.status)
	}
	return int(info.pid), status, true
}
