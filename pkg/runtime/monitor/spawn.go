package monitor

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// A spawner starts OCI runtimes from one thread that lives as long as the
// monitor. The thread matters twice: the runtime dies with it (PDEATHSIG), so
// that a killed monitor leaves no create running that nobody follows, and it
// can be put into a mount namespace that the rest of the process is not in.
type spawner struct {
	reaper *reaper
	// hide starts runtimes where the unified hierarchy is not mounted.
	hide bool
	jobs chan spawnJob
	done chan struct{}
}

type spawnJob struct {
	argv, env []string
	dir       string
	stdio     [3]uintptr
	exited    func(unix.WaitStatus, time.Time)
	// since is set to the runtime's start time: its children are no older.
	since  *uint64
	result chan spawnResult
}

type spawnResult struct {
	pid int
	err error
}

func newSpawner(r *reaper, hide bool) *spawner {
	return &spawner{reaper: r, hide: hide, jobs: make(chan spawnJob), done: make(chan struct{})}
}

// run is the spawner's goroutine; it returns when jobs is closed.
func (s *spawner) run() {
	defer close(s.done)
	runtime.LockOSThread()
	// No unlock: a thread with a mount namespace of its own must not be used
	// for anything else and ends with the goroutine.
	if s.hide && unix.Gettid() == os.Getpid() {
		// /proc/self is the main thread's. Keep it out by standing on it.
		inner := &spawner{reaper: s.reaper, hide: true, jobs: s.jobs, done: make(chan struct{})}
		go inner.run()
		<-inner.done
		runtime.UnlockOSThread()
		return
	}
	home := -1
	if s.hide {
		home = s.leaveHome()
		defer func() { closeFD(home) }()
	}
	for job := range s.jobs {
		pid, err := s.spawn(job, home)
		job.result <- spawnResult{pid, err}
	}
}

// leaveHome prepares the thread for namespaces of its own and returns its
// present one, or -1.
func (s *spawner) leaveHome() int {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1
	}
	fd, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

func (s *spawner) spawn(job spawnJob, home int) (int, error) {
	if s.hide {
		if home < 0 {
			return 0, errors.New("hide unified cgroup: no mount namespace to return to")
		}
		// Each time anew: the mounts of now must be visible to the runtime.
		if err := linux.HideUnified(); err != nil {
			return 0, errors.Join(err, unix.Setns(home, unix.CLONE_NEWNS))
		}
		// Else the thread would keep every mount of now alive.
		defer func() { _ = unix.Setns(home, unix.CLONE_NEWNS) }() // the next HideUnified works from anywhere
	}
	return s.reaper.fork(func() (int, error) {
		pid, err := syscall.ForkExec(job.argv[0], job.argv, &syscall.ProcAttr{
			Dir:   job.dir,
			Env:   job.env,
			Files: job.stdio[:],
			Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
		})
		if err == nil {
			// The reaper waits for us, so at worst this is a zombie.
			if stat, statErr := linux.ReadStat(pid); statErr == nil {
				*job.since = stat.StartTime
			}
		}
		return pid, err
	}, job.exited)
}

// start runs one runtime.
func (s *spawner) start(job spawnJob) (int, error) {
	job.result = make(chan spawnResult, 1)
	select {
	case s.jobs <- job:
		r := <-job.result
		return r.pid, r.err
	case <-s.done:
		return 0, errors.New("start OCI runtime: the monitor is stopping")
	}
}

// stop ends the spawner's thread, and with it runtimes that still run.
func (s *spawner) stop() {
	close(s.jobs)
	<-s.done
}
