package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process of a cgroup and waits until it is empty,
// as long as ctx lasts. A cgroup that is not there is empty.
func (c *Cgroups) Kill(ctx context.Context, cgroup string) error {
	if path.Clean("/"+cgroup) == "/" {
		return fmt.Errorf("kill cgroup %q: it is the root", cgroup)
	}
	if err := KillCgroup(ctx, c.dirs(cgroup)...); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", cgroup, err)
	}
	return nil
}

// KillCgroup is Kill of the cgroup with these directories, one for each tree.
func KillCgroup(ctx context.Context, dirs ...string) error {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) { // v1 has no event to wait for
		for _, dir := range dirs {
			// cgroup.kill (v2, 5.14) cannot miss a fork; elsewhere there is none.
			_ = writeControl(filepath.Join(dir, "cgroup.kill"), "1")
		}
		alive, err := killMembers(dirs)
		if err != nil || alive == 0 {
			return err
		}
		wait.Reset(pause)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes are still alive: %w", alive, ctx.Err())
		case <-wait.C:
		}
	}
}

// killMembers kills those that still are in the cgroup once it is known who they
// are: a pid may have been handed on since it was read. It returns how many were
// alive.
func killMembers(dirs []string) (alive int, err error) {
	pids, err := cgroupProcesses(dirs)
	if err != nil {
		return 0, err
	}
	found := map[int]Process{}
	for _, pid := range pids {
		s, err := ReadStat(pid)
		if err != nil || s.State == 'Z' && !hasThreads(pid) || pid == 1 || pid == os.Getpid() {
			continue // a zombie stays listed in v1 until it is reaped
		}
		found[pid] = Process{PID: pid, StartTime: s.StartTime}
	}
	if len(found) == 0 {
		return 0, nil
	}
	if pids, err = cgroupProcesses(dirs); err != nil {
		return 0, err
	}
	for _, pid := range pids {
		p, ok := found[pid]
		if !ok {
			continue // next time
		}
		if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return len(found), nil
}

// hasThreads reports whether a process lives on without its first thread, which
// alone makes it look like a zombie.
func hasThreads(pid int) bool {
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	return err == nil && len(tasks) > 1
}
