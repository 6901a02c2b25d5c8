package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// validate checks what a create would stumble over half way.
func (r *CreateRequest) validate() error {
	switch {
	case !validID(r.ID):
		return fmt.Errorf("%w: container id %q", ErrInvalid, r.ID)
	case !filepath.IsAbs(r.Dir):
		return fmt.Errorf("%w: directory %q is not absolute", ErrInvalid, r.Dir)
	case len(r.Argv) == 0 || !filepath.IsAbs(r.Argv[0]):
		return fmt.Errorf("%w: command %q has no absolute path", ErrInvalid, r.Argv)
	case !filepath.IsAbs(r.PidFile):
		return fmt.Errorf("%w: pid file %q is not absolute", ErrInvalid, r.PidFile)
	case r.LogPath != "" && !filepath.IsAbs(r.LogPath):
		return fmt.Errorf("%w: log path %q is not absolute", ErrInvalid, r.LogPath)
	case r.MaxLineSize < 0 || r.MaxLineSize > maxMaxLineSize:
		return fmt.Errorf("%w: line size %d is not within 0 and %d", ErrInvalid, r.MaxLineSize, maxMaxLineSize)
	case r.TTY && consoleAt(r.Argv) < 0:
		return fmt.Errorf("%w: command %q has no word \"create\" or \"restore\" to put --console-socket behind", ErrInvalid, r.Argv)
	}
	if r.MaxLineSize == 0 {
		r.MaxLineSize = DefaultMaxLineSize
	}
	if r.Timeout <= 0 {
		r.Timeout = defaultTimeout
	}
	if r.WorkDir == "" {
		r.WorkDir = r.Dir
	}
	return nil
}

// consoleAt is where the runtime's command is that --console-socket belongs to.
func consoleAt(argv []string) int {
	return slices.IndexFunc(argv, func(a string) bool { return a == "create" || a == "restore" })
}

func validID(id string) bool {
	for i := range len(id) {
		b := id[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", rune(b))) {
			return false
		}
	}
	return id != "" && len(id) <= 200
}

// A creation is one create under way.
type creation struct {
	m   *server
	req CreateRequest
	c   *container
	// stdio is the runtime's, and so the container's.
	stdio [3]int
	// output is what the runtime of a container with a terminal writes to.
	output  *os.File
	console *Console
	newLog  bool
	since   uint64
	started bool
}

// create runs the OCI runtime and takes the container over. It either
// succeeds, or leaves nothing of its own.
func (m *server) create(ctx context.Context, req CreateRequest) (CreateResult, error) {
	if err := req.validate(); err != nil {
		return CreateResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, req.Timeout)
	defer cancel()
	c, err := m.reserve(ctx, &req)
	if err != nil {
		return CreateResult{}, err
	}
	n := &creation{m: m, req: req, c: c, stdio: [3]int{-1, -1, -1}}
	err = n.run(ctx)
	n.closeRest()
	if err != nil {
		n.undo()
		return CreateResult{}, err
	}
	close(c.settled)
	r := c.copyRecord()
	return CreateResult{Process: r.Process, Cgroup: r.Cgroup}, nil
}

func (n *creation) run(ctx context.Context) error {
	if err := n.prepare(); err != nil {
		return err
	}
	n.m.reaper.beginCreate()
	defer n.m.reaper.endCreate()
	if err := n.runRuntime(ctx); err != nil {
		return err
	}
	if err := n.adoptInit(); err != nil {
		return err
	}
	if n.console != nil {
		if err := n.receiveTTY(ctx); err != nil {
			return err
		}
	}
	if err := n.m.saveRecord(n.c.copyRecord()); err != nil {
		return err
	}
	n.c.pump.release()
	return nil
}

func (n *creation) receiveTTY(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, consoleTime)
	defer cancel()
	fd, err := n.console.Receive(ctx)
	if err != nil {
		return err
	}
	return <-n.c.setTTY(fd)
}

// prepare makes everything that has to exist before the runtime starts.
func (n *creation) prepare() error {
	r := n.c.copyRecord()
	// What an earlier attempt left when its monitor was killed.
	if err := removeStdio(r.Dir); err != nil {
		return err
	}
	for _, path := range []string{n.req.PidFile, filepath.Join(r.Dir, exitName)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var err error
	if n.c.journal, err = openJournal(filepath.Join(r.Dir, journalName), true); err != nil {
		return err
	}
	if n.c.pump, err = newPump(n.m, r, n.c.journal); err != nil {
		return err
	}
	n.c.pump.held = true
	if r.LogPath != "" {
		n.newLog = !exists(r.LogPath)
		if n.c.pump.logFD, err = openLogFile(r.LogPath); err != nil {
			return err
		}
	}
	if n.stdio[0], err = openDevNull(); err != nil {
		return err
	}
	if r.TTY {
		return n.prepareTTY()
	}
	return n.preparePipes()
}

func (n *creation) preparePipes() error {
	var err error
	if n.req.Stdin {
		closeFD(n.stdio[0])
		if n.stdio[0], n.c.stdin, err = makeStdin(n.req.Dir); err != nil {
			return err
		}
	}
	for i := range streamCount {
		if n.stdio[i+1], err = makeOutput(n.req.Dir, i); err != nil {
			return err
		}
		fd, err := openReader(n.req.Dir, i)
		if err != nil {
			return err
		}
		if err := <-n.c.pump.connect(i, fd); err != nil {
			return err
		}
	}
	return nil
}

func (n *creation) prepareTTY() error {
	fd, err := unix.MemfdCreate("runtime output", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	n.output = os.NewFile(uintptr(fd), "runtime output")
	for i := 1; i <= 2; i++ {
		if n.stdio[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("duplicate memfd", err)
		}
	}
	n.console, err = NewConsole(n.m.dir, n.req.ID)
	return err
}

// runRuntime runs the OCI runtime to its end.
func (n *creation) runRuntime(ctx context.Context) error {
	argv := n.req.Argv
	if n.console != nil {
		// Behind the word, because runc takes no options behind its argument.
		at := consoleAt(argv) + 1
		argv = slices.Insert(slices.Clone(argv), at, "--console-socket", n.console.Path())
	}
	exited := make(chan unix.WaitStatus, 1)
	job := spawnJob{
		argv: argv, env: n.req.Env, dir: n.req.WorkDir,
		stdio:  [3]uintptr{uintptr(n.stdio[0]), uintptr(n.stdio[1]), uintptr(n.stdio[2])},
		exited: func(status unix.WaitStatus, _ time.Time) { exited <- status },
		since:  &n.since,
	}
	pid, err := n.m.spawner(n.req.HideUnifiedCgroup).start(job)
	if err != nil {
		return &CreateError{Reason: err.Error(), NotFound: errors.Is(err, fs.ErrNotExist)}
	}
	n.started = true
	n.m.oom.reset(pid)
	n.closeStdio()
	var status unix.WaitStatus
	reason := ""
	select {
	case status = <-exited:
	case <-ctx.Done():
		n.m.reaper.killGroup(pid)
		status = <-exited
		reason = "canceled"
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			reason = "no end within " + n.req.Timeout.String()
		}
	}
	switch {
	case reason != "":
	case status.Signaled():
		reason = "killed by signal " + unix.SignalName(status.Signal())
	case status.ExitStatus() != 0:
		reason = "exit status " + strconv.Itoa(status.ExitStatus())
	default:
		return nil
	}
	return &CreateError{Reason: reason, Output: n.tail()}
}

// adoptInit finds the container's init, which is our child now.
func (n *creation) adoptInit() error {
	pid, err := readPidFile(n.req.PidFile)
	if err != nil {
		return &CreateError{Reason: err.Error(), Output: n.tail()}
	}
	process, err := n.m.reaper.watch(pid, n.since, n.c.exited)
	if err != nil {
		return &CreateError{Reason: fmt.Sprintf("pid file names process %d: %v", pid, err), Output: n.tail()}
	}
	// A process that has exited already has no cgroup to speak of.
	cgroup, err := n.m.cgroups.of(pid)
	if err != nil {
		cgroup = Cgroup{}
	}
	n.c.mu.Lock()
	n.c.record.Process, n.c.record.Cgroup = process, cgroup
	n.c.mu.Unlock()
	return n.c.watchOOM()
}

func readPidFile(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid file %s holds %.20q", path, b)
	}
	return pid, nil
}

// closeStdio closes the runtime's ends.
func (n *creation) closeStdio() {
	closeFDs(n.stdio[:])
	n.stdio = [3]int{-1, -1, -1}
}

// closeRest closes what only the create needed.
func (n *creation) closeRest() {
	n.closeStdio()
	var errs []error
	if n.console != nil {
		errs = append(errs, n.console.Close())
	}
	if n.output != nil {
		errs = append(errs, n.output.Close())
	}
	if err := errors.Join(errs...); err != nil {
		n.m.logger.Warn("console socket is left", "containerID", n.req.ID, "error", err)
	}
}

// undo removes what a failed create has made.
func (n *creation) undo() {
	c := n.c
	c.aborted = true
	if n.started {
		n.killInit()
	}
	if c.pump != nil {
		c.pump.abort()
	}
	c.closeAll()
	r := c.copyRecord()
	errs := []error{removeStdio(r.Dir), n.m.dropRecord(r.ID)}
	if n.newLog {
		errs = append(errs, os.Remove(r.LogPath))
	}
	if err := errors.Join(errs...); err != nil {
		n.m.logger.Warn("files of a failed create are left", "containerID", r.ID, "error", err)
	}
	n.m.unreserve(c)
	close(c.settled)
}

// killInit kills the init of a create that failed after the runtime had made
// one. The process must be a child of ours that this create has started.
func (n *creation) killInit() {
	process := n.c.copyRecord().Process
	if process.PID == 0 {
		pid, err := readPidFile(n.req.PidFile)
		if err != nil {
			return
		}
		s, err := linux.ReadStat(pid)
		if err != nil || s.PPID != os.Getpid() || s.StartTime < n.since {
			return
		}
		process = linux.Process{PID: pid, StartTime: s.StartTime}
	}
	if err := process.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
		n.m.logger.Warn("init of a failed create is left", "containerID", n.req.ID, "error", err)
	}
}

// release lets the pump write what the spools hold.
func (p *pump) release() {
	p.do(func(*buffers) {
		p.held = false
		for _, s := range p.streams {
			if s != nil {
				s.ready.Store(true)
			}
		}
	})
}
