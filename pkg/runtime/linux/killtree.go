package linux

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clockTicks is USER_HZ, which Linux fixes at 100 for every architecture Go
// runs on.
const clockTicks = 100

// StartedAfter reports whether the process is younger than a moment, by more
// than what the clocks of file systems and of the kernel differ.
func (p Process) StartedAfter(t time.Time) bool {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return false
	}
	age := time.Duration(now.Nano()) - time.Duration(p.StartTime)*(time.Second/clockTicks)
	return time.Now().Add(-age).After(t.Add(100 * time.Millisecond))
}

// How long KillTree waits for processes that it has killed, in all and between
// two looks: one that the kernel holds, or that is not given a processor, is
// killed late.
const (
	killTreeTime  = 5 * time.Second
	killTreePause = 20 * time.Millisecond
)

// KillTree kills the processes that belong to an exec: root, if it is still
// the process meant, its descendants, and every process of the sessions that
// leader and any of them began, which finds those whose parents are gone already.
// They are stopped before the first is killed, so that none gets away by forking
// meanwhile, and looked for until there are none. It takes up to five seconds; the
// error is about a process that is there even then.
//
// leader is a number that began a session; 0 is none. A session whose leader
// is alive and is not root is somebody else's.
func KillTree(leader int, root Process) error {
	t := tree{root: root, leaders: map[int]Process{}, stopped: map[Process]bool{}}
	if leader > 0 {
		t.leaders[leader] = root
	}
	if err := t.stop(); err != nil {
		return err
	}
	for deadline := time.Now().Add(killTreeTime); ; {
		members, err := t.members()
		if err != nil || len(members) == 0 {
			return err
		}
		if err := signalAll(members, unix.SIGKILL); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill process tree: %d processes are there %v after they were killed, %d is one", len(members), killTreeTime, members[0].PID)
		}
		if err := members[len(members)-1].awaitEnd(killTreePause); err != nil {
			return err
		}
	}
}

// tree is what KillTree kills.
type tree struct {
	root Process
	// leaders of sessions that are known to belong to the tree, by their pids.
	leaders map[int]Process
	stopped map[Process]bool
}

// stop stops members until there are no others.
func (t *tree) stop() error {
	for deadline := time.Now().Add(killTreeTime); time.Now().Before(deadline); {
		members, err := t.members()
		if err != nil {
			return err
		}
		members = slices.DeleteFunc(members, func(p Process) bool { return t.stopped[p] })
		if len(members) == 0 {
			return nil
		}
		if err := signalAll(members, unix.SIGSTOP); err != nil {
			return err
		}
		for _, p := range members {
			t.stopped[p] = true
		}
	}
	return nil // they fork faster than they can be stopped; killing makes them fewer
}

func signalAll(processes []Process, signal unix.Signal) error {
	for _, p := range processes {
		if err := p.Signal(signal); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// awaitEnd waits until the process has ended, but not for longer than a time.
func (p Process) awaitEnd(limit time.Duration) error {
	pidfd, err := p.Open()
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = PollPidfd(pidfd, limit)
	return errors.Join(err, pidfd.Close())
}

// members lists the living members of the tree.
func (t *tree) members() ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	// The kernel gives a number to a new process only when no session has it
	// any more: a stranger with a leader's pid means that the session is gone.
	for _, p := range all {
		if leader, ok := t.leaders[p.PID]; ok && p.Process != leader {
			delete(t.leaders, p.PID)
		}
	}
	in := map[int]bool{}
	for changed := true; changed; {
		changed = false
		for _, p := range all {
			_, ofSession := t.leaders[p.Session]
			if in[p.PID] || !ofSession && !in[p.PPID] && p.Process != t.root {
				continue
			}
			in[p.PID], changed = true, true
			if p.Session == p.PID {
				t.leaders[p.PID] = p.Process
			}
		}
	}
	var members []Process
	for _, p := range all {
		if in[p.PID] && p.State != 'Z' && p.State != 'X' {
			members = append(members, p.Process)
		}
	}
	return members, nil
}

// living is a process and what is known of it.
type living struct {
	Process
	Stat
}

// processes lists all that there are.
func processes() ([]living, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []living
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := ReadStat(pid)
		if err != nil {
			continue // exited meanwhile
		}
		all = append(all, living{Process{PID: pid, StartTime: s.StartTime}, s})
	}
	return all, nil
}
