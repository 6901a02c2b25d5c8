package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Config says where the monitor lives.
type Config struct {
	// Dir is the monitor's directory: socket, lock, log and index. It is made
	// with mode 0700.
	Dir string
	// Exe is the binary to start as `Exe monitor --dir Dir`; "" means the
	// running one.
	Exe string
	// OnEvent is called for each event, one after another, from a goroutine
	// of its own. It may call the Supervisor. An event may come before the
	// Create of its container has returned, and more than once.
	OnEvent func(Event)
	// Logger gets what happens between calls: a monitor that died, one that
	// was started. nil means slog.Default().
	Logger *slog.Logger
}

const (
	firstPause = 20 * time.Millisecond
	lastPause  = 5 * time.Second
	// lockTime bounds Start.
	lockTime = 30 * time.Second
	// cancelTime is how long a canceled Create waits for its cleaning up.
	cancelTime = 10 * time.Second
)

// Supervisor is the daemon's end: it keeps one monitor alive and talks to it.
//
//	CONNECTED --connection breaks--> LOST --connect, else spawn--> CONNECTED
//	                                   '--cannot: pause, longer each time--'
//
// While LOST, new calls wait for their context, and those under way fail with
// ErrMonitorLost. It also holds what must survive the death of the monitor: a
// pidfd of each container, readers of its pipes, the master of its terminal.
// All methods are safe for concurrent use.
type Supervisor struct {
	cfg    Config
	events *eventQueue
	holds  *holds
	child  child // of the run goroutine

	mu      sync.Mutex
	link    *link
	changed chan struct{} // closed and replaced whenever link changes
	closed  bool

	restarts atomic.Uint64

	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// Start connects to the living monitor or starts one, and returns when it
// answers. The Supervisor then keeps it alive until Close.
func Start(ctx context.Context, cfg Config) (*Supervisor, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("%w: monitor directory %q is not absolute", ErrInvalid, cfg.Dir)
	}
	if cfg.Exe == "" {
		cfg.Exe = "/proc/self/exe"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(Event) {}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Supervisor{cfg: cfg, holds: newHolds(), changed: make(chan struct{})}
	s.events = newEventQueue(context.WithoutCancel(ctx), s.deliver)
	l, err := s.connectFirst(ctx)
	if err != nil {
		s.events.stop()
		s.holds.closeAll()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.setLink(l)
	s.wait.Go(func() { s.run(runCtx, l) })
	return s, nil
}

// connectFirst connects, and is patient only with a monitor that holds the
// lock and does not answer: one that is being started by somebody else, or
// that was killed and is not quite gone.
func (s *Supervisor) connectFirst(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		l, err := s.connect(ctx)
		if err == nil || !errors.Is(err, linux.ErrLocked) {
			return l, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// run keeps a connection until Close.
func (s *Supervisor) run(ctx context.Context, l *link) {
	for {
		select {
		case <-l.lost:
		case <-ctx.Done():
		}
		s.setLink(nil)
		l.close()
		if ctx.Err() != nil || s.isClosed() { // Shutdown ends the monitor first
			return
		}
		s.cfg.Logger.Warn("monitor is lost; its containers go on", "pid", l.pid, "error", l.err)
		if l = s.reconnect(ctx); l == nil {
			return
		}
		s.cfg.Logger.Info("monitor is back", "pid", l.pid)
		s.setLink(l)
	}
}

func (s *Supervisor) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// reconnect tries until it works; it returns nil only when ctx has ended.
func (s *Supervisor) reconnect(ctx context.Context) *link {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		l, err := s.connect(ctx)
		if err == nil {
			s.restarts.Add(1)
			return l
		}
		if ctx.Err() == nil {
			s.cfg.Logger.Error("monitor is not back", "error", err, "retryIn", pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Supervisor) setLink(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = l
	close(s.changed)
	s.changed = make(chan struct{})
}

// current returns the connection, and waits for one while there is none.
func (s *Supervisor) current(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		l, changed, closed := s.link, s.changed, s.closed
		s.mu.Unlock()
		if closed {
			return nil, ErrClosed
		}
		if l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrMonitorLost, ctx.Err())
		}
	}
}

// deliver passes an event on, with an exit status that only we may know.
func (s *Supervisor) deliver(ctx context.Context, e Event) {
	if e.Exit != nil && e.Exit.Lost {
		if status, ok := s.holds.exitStatus(e.ID, e.Process); ok {
			exit := *e.Exit
			exit.setStatus(status)
			e.Exit = &exit
			// Only the monitor's record gains; the daemon knows already.
			if l, err := s.current(ctx); err == nil {
				_, _ = call[struct{}](ctx, l, opAmend, idBody{ID: e.ID, Status: uint32(status)})
			}
		}
	}
	if e.Exit != nil {
		s.holds.releaseOf(e.ID, e.Process)
	}
	s.cfg.OnEvent(e)
}

// Create runs the OCI runtime's create and takes the container over. When ctx
// ends first, the runtime is killed and what it left in the monitor removed.
func (s *Supervisor) Create(ctx context.Context, req CreateRequest) (CreateResult, error) {
	l, err := s.current(ctx)
	if err != nil {
		return CreateResult{}, err
	}
	answer, err := l.callCancel(ctx, opCreate, req)
	if err != nil {
		return CreateResult{}, err
	}
	result, err := decode[CreateResult](answer.Body)
	if err != nil {
		closeFDs(answer.fds)
		return CreateResult{}, err
	}
	s.holds.hold(ContainerState{
		ID: req.ID, Dir: req.Dir, Process: result.Process, TTY: req.TTY, StdinOpen: req.Stdin && !req.TTY,
	}, answer.fds)
	return result, nil
}

// ReopenLog makes the monitor write to a new file at the container's log path,
// for rotation: when it returns, nothing more goes to the old one. Not a line
// is lost.
func (s *Supervisor) ReopenLog(ctx context.Context, id string) error {
	return s.do(ctx, opReopen, idBody{ID: id})
}

// Resize sets the size of a container's terminal in characters.
func (s *Supervisor) Resize(ctx context.Context, id string, width, height uint16) error {
	return s.do(ctx, opResize, idBody{ID: id, Width: width, Height: height})
}

// CloseStdin makes a container read the end of its stdin. It is idempotent.
func (s *Supervisor) CloseStdin(ctx context.Context, id string) error {
	return s.do(ctx, opCloseStdin, idBody{ID: id})
}

// Forget drops what the monitor knows of an exited container, whose exit is
// not reported again; exit.json stays. An unknown id is a success. ErrState
// means that the container runs. Where the monitor dies meanwhile, the next one
// is told.
func (s *Supervisor) Forget(ctx context.Context, id string) error {
	for {
		l, err := s.current(ctx)
		if err != nil {
			return err
		}
		_, err = call[struct{}](ctx, l, opForget, idBody{ID: id})
		if errors.Is(err, ErrMonitorLost) && s.left(ctx, l) {
			continue
		}
		if err == nil {
			s.holds.release(id)
		}
		return err
	}
}

// left waits until a broken connection is not the current one any more, and
// reports whether that came before the end of ctx.
func (s *Supervisor) left(ctx context.Context, broken *link) bool {
	for {
		s.mu.Lock()
		l, changed, closed := s.link, s.changed, s.closed
		s.mu.Unlock()
		if l != broken || closed {
			return !closed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Supervisor) do(ctx context.Context, op string, body idBody) error {
	l, err := s.current(ctx)
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, l, op, body)
	return err
}

// List tells of all containers that were created and not forgotten.
func (s *Supervisor) List(ctx context.Context) ([]ContainerState, error) {
	l, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	list, err := call[listBody](ctx, l, opList, struct{}{})
	return list.Containers, err
}

// PID is the monitor's process id, 0 while there is none.
func (s *Supervisor) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil {
		return 0
	}
	return s.link.pid
}

// Restarts counts how often the connection to the monitor was lost and made
// anew, which mostly means that it died and was started again.
func (s *Supervisor) Restarts() uint64 { return s.restarts.Load() }

// Upgrade makes the monitor execute Config.Exe in its own place. Containers
// notice nothing. It returns when the new monitor answers.
func (s *Supervisor) Upgrade(ctx context.Context) error {
	l, err := s.current(ctx)
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, l, opUpgrade, upgradeBody{Exe: s.upgradeExe()})
	if !errors.Is(err, ErrMonitorLost) {
		return err // it lives, and so has not been upgraded
	}
	s.mu.Lock()
	if s.link == l {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	} else {
		s.mu.Unlock()
	}
	_, err = s.current(ctx)
	return err
}

// Close lets go of the monitor, which goes on living. It waits until OnEvent
// is not being called any more.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wait.Wait()
	s.events.stop()
	s.holds.closeAll()
	return nil
}

// Shutdown ends the monitor if it has no container, else it returns ErrState,
// and closes the Supervisor.
func (s *Supervisor) Shutdown(ctx context.Context) error {
	l, err := s.current(ctx)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	s.mu.Lock()
	s.closed = true // nobody must start another
	s.mu.Unlock()
	_, err = call[struct{}](ctx, l, opShutdown, struct{}{})
	if errors.Is(err, ErrMonitorLost) {
		err = nil // it was faster than its answer
	}
	s.cancel()
	s.wait.Wait()
	s.events.stop()
	s.holds.closeAll()
	if err == nil {
		s.child.reap()
	}
	return err
}
