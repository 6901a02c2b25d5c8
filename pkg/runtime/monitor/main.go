package monitor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

const (
	// readyFD is where Supervisor waits for the monitor to say that it
	// listens, or why it does not.
	readyFD  = 3
	readyEnv = "CRI_NODE_MONITOR_READY"
	// originalOOM hands the oom_score_adj that children get through an upgrade.
	originalOOM = "CRI_NODE_MONITOR_OOM_SCORE_ADJ"
	readyText   = "ready"
)

// Main is the monitor process: `cri-node monitor --dir DIR`. It returns when
// the monitor has nothing left to look after and nobody is connected.
func Main(args []string) error {
	flags := flag.NewFlagSet("monitor", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the socket, the lock and the index")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if !filepath.IsAbs(*dir) {
		return fmt.Errorf("%w: --dir %q is not absolute", ErrInvalid, *dir)
	}
	// The monitor copies logs and waits; memory counts more than speed.
	runtime.GOMAXPROCS(2)
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(48 << 20)

	ready := openReady()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	m, err := newServer(ctx, stop, *dir, logger)
	if err != nil {
		tellReady(ready, err.Error())
		return err
	}
	tellReady(ready, readyText)
	return m.run()
}

// openReady takes the descriptor that Supervisor passes, and closes every
// other that whoever started the monitor forgot to: what is open without
// FD_CLOEXEC was inherited.
func openReady() io.WriteCloser {
	passed := os.Getenv(readyEnv) != ""
	if err := os.Unsetenv(readyEnv); err != nil || !passed {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		entries = nil
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= readyFD {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			closeFD(fd)
		}
	}
	unix.CloseOnExec(readyFD)
	return os.NewFile(readyFD, "ready")
}

func tellReady(w io.WriteCloser, text string) {
	if w == nil {
		return
	}
	_, _ = io.WriteString(w, text) // who asked may have gone
	_ = w.Close()
}

// newServer takes the lock, takes over what there is, and listens.
func newServer(ctx context.Context, stop context.CancelFunc, dir string, logger *slog.Logger) (*server, error) {
	m := &server{
		ctx: ctx, stop: stop, dir: dir, logger: logger,
		containers: map[string]*container{}, conns: map[*session]struct{}{},
		reaper: newReaper(), hubs: hubs{set: map[*hub]struct{}{}}, slots: newSlots(),
		shrinker: linux.NewShrinker(),
	}
	h := loadHandover(dir)
	if err := m.prepare(h); err != nil {
		return nil, err
	}
	if err := m.adoptAll(h); err != nil {
		return nil, err
	}
	return m, m.listen(h)
}

func (m *server) prepare(h handover) (err error) {
	if err := os.MkdirAll(filepath.Join(m.dir, indexName), 0o700); err != nil {
		return err
	}
	if h.PID != 0 {
		m.lock = os.NewFile(uintptr(h.Lock), filepath.Join(m.dir, lockName))
	} else if m.lock, err = linux.Lock(filepath.Join(m.dir, lockName)); err != nil {
		return err
	}
	m.oom.lower()
	if v, err := strconv.Atoi(os.Getenv(originalOOM)); err == nil {
		m.oom.original = v
	}
	if err := os.Unsetenv(originalOOM); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	m.exe = strings.TrimSuffix(exe, " (deleted)")
	if m.cgroups, err = readCgroupMounts(); err != nil {
		return err
	}
	if m.poller, err = newPoller(); err != nil {
		return err
	}
	m.plain, m.hiding = newSpawner(m.reaper, false), newSpawner(m.reaper, true)
	return nil
}

func (m *server) listen(h handover) error {
	if h.PID != 0 {
		f := os.NewFile(uintptr(h.Listener), "listener")
		l, err := net.FileListener(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("take over listener: %w", err)
		}
		listener, ok := l.(*net.UnixListener)
		if !ok {
			return fmt.Errorf("take over listener: it is a %T", l)
		}
		m.listener = listener
	} else {
		path := filepath.Join(m.dir, socketName)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var err error
		// The directory is 0700, so that nobody gets in before the chmod.
		if m.listener, err = listenUnix(path); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
	}
	m.listener.SetUnlinkOnClose(false)
	return nil
}

// run serves until the monitor is told to stop or has been idle for long.
func (m *server) run() error {
	m.work.Go(func() { m.reaper.run(m.ctx) })
	go m.plain.run()
	go m.hiding.run()
	go m.poller.run()
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		m.accept()
	}()
	m.mu.Lock()
	m.armIdleLocked()
	m.mu.Unlock()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGHUP, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	m.logger.Info("monitor runs", "pid", os.Getpid(), "oomScoreAdj", m.oom.current, "containers", len(m.list()))
	defer m.shrinker.Stop()
	for m.ctx.Err() == nil {
		select {
		case <-m.ctx.Done():
		case s := <-signals:
			m.signal(s)
		case <-m.shrinker.Due():
			if err := m.shrinker.Shrink(); err != nil {
				m.logger.Warn("memory is not given back", "error", err)
			}
		}
	}
	return m.end(accepting)
}

// signal obeys SIGHUP with an upgrade, and SIGTERM only without containers:
// what stops the daemon must not stop what the daemon's containers need.
func (m *server) signal(s os.Signal) {
	var err error
	if s == unix.SIGHUP {
		err = m.upgrade(m.ctx, "")
	} else {
		err = m.shutdown()
	}
	if err != nil {
		m.logger.Warn("signal is not obeyed", "signal", s.String(), "error", err)
	}
}

// end stops everything in the opposite order.
func (m *server) end(accepting <-chan struct{}) error {
	m.logger.Info("monitor ends")
	err := m.listener.Close()
	m.mu.Lock()
	if m.idle != nil {
		m.idle.Stop()
	}
	for s := range m.conns {
		s.conn.close()
	}
	m.mu.Unlock()
	<-accepting
	m.plain.stop()
	m.hiding.stop()
	m.work.Wait()
	m.poller.stop()
	return errors.Join(err, m.lock.Close())
}
