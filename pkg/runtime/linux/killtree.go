package linux

import (
	"errors"
	"fmt"
	"os"
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
// the process meant, its descendants, and every process of the session that
// leader began, which finds those whose parents are gone already. It looks
// again until it finds none, because what is being killed may fork. It takes
// up to five seconds; the error is about a process that is there even then.
//
// leader is a number that began a session; 0 is none. A session whose leader
// is alive and is not root is somebody else's.
func KillTree(leader int, root Process) error {
	if leader <= 0 {
		leader = -1
	}
	for deadline := time.Now().Add(killTreeTime); ; {
		members, err := treeMembers(leader, root)
		if err != nil || len(members) == 0 {
			return err
		}
		for _, m := range members {
			if err := m.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill process tree: %d processes are there %v after they were killed, %d is one", len(members), killTreeTime, members[0].PID)
		}
		if err := members[len(members)-1].awaitEnd(killTreePause); err != nil {
			return err
		}
	}
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

// treeMembers lists the living members of the tree, parents before children.
func treeMembers(leader int, root Process) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	type process struct {
		Process
		Stat
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s, err := ReadStat(pid)
		if err != nil {
			continue // exited meanwhile
		}
		all = append(all, process{Process{PID: pid, StartTime: s.StartTime}, s})
	}
	inTree := map[int]bool{}
	if root.PID > 0 {
		inTree[root.PID] = true
	}
	// The kernel gives a number to a new process only when no session has it
	// any more: a stranger with the leader's pid means that the session is gone.
	for _, p := range all {
		if p.PID == leader && p.Process != root {
			leader = -1
		}
	}
	for changed := true; changed; {
		changed = false
		for _, p := range all {
			if !inTree[p.PID] && (p.Session == leader || inTree[p.PPID]) {
				inTree[p.PID] = true
				changed = true
			}
		}
	}
	var members []Process
	for _, p := range all {
		if inTree[p.PID] && p.State != 'Z' && p.State != 'X' && (p.PID != root.PID || p.Process == root) {
			members = append(members, p.Process)
		}
	}
	return members, nil
}
