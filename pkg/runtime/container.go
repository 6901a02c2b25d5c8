package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/outbox"
	"github.com/cri-node/cri-node/pkg/revision"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// Container is one container. Its methods may be called by many at once.
type Container struct {
	id string
	m  *Manager

	// op holds one token; who has it may change what the container does.
	op chan struct{}
	// mu makes changes of the status, in memory and on disk, follow one another.
	mu     sync.Mutex
	status revision.Pointer[Status]
	// removed is set when the container was taken down for good; op guards it.
	removed bool
	// early is an exit that was told before create, or renew, had seen the
	// container made; mu guards it.
	early *monitor.Event
	// changes are those that OnChange has not been told of yet, put there under mu.
	changes outbox.Box[Change]
	execs   atomic.Uint64
	process atomic.Pointer[specs.Process] // what InitProcess has read
}

// life is what lasts from Created to Exited.
type life struct {
	// gone is closed when the container is Exited.
	gone chan struct{}
	// stopSent is set once the stop signal was sent, and killed once SIGKILL is
	// about to be.
	stopSent, killed atomic.Bool
}

func newLife() *life { return &life{gone: make(chan struct{})} }

// logExits is the level at which exits are logged.
const logExits = 2

func newContainer(m *Manager, s *Status) *Container {
	c := &Container{id: s.ID, m: m, op: make(chan struct{}, 1)}
	s.life = newLife()
	c.status.CountedBy(&m.changes)
	c.status.Store(s)
	if s.State == Exited {
		close(s.life.gone)
	}
	return c
}

// ID of the container.
func (c *Container) ID() string { return c.id }

// Status returns the snapshot of now. The caller must not change it.
func (c *Container) Status() *Status { return c.status.Load() }

// Dir is the directory of the container that ends with the boot.
func (c *Container) Dir() string { return c.m.stateDir(c.id) }

// RootfsPath is where the container's root file system is mounted.
func (c *Container) RootfsPath() string { return filepath.Join(c.Dir(), "rootfs") }

// ImagesDir is for mounts of images beside the root file system. Whatever is
// mounted there goes with the container.
func (c *Container) ImagesDir() string { return filepath.Join(c.Dir(), "images") }

// VolumesDir is a durable directory for the volumes the image declares.
func (c *Container) VolumesDir() string { return filepath.Join(c.m.recordDir(c.id), "volumes") }

// Exited is closed once the container has exited and its log is complete. A
// container that is renewed has another one from then on.
func (c *Container) Exited() <-chan struct{} { return c.Status().Exited() }

// lock takes the container for one operation. The caller must call unlock.
func (c *Container) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case c.op <- struct{}{}:
		return func() { <-c.op }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another operation on container %s: %w", c.id, context.Cause(ctx))
	}
}

// change applies f to a copy of the status, saves it and then shows it. If it
// cannot be saved, nothing has changed.
func (c *Container) change(f func(*Status)) error {
	c.mu.Lock()
	defer c.unlockAndTell()
	return c.changeLocked(f)
}

func (c *Container) changeLocked(f func(*Status)) error {
	next := *c.status.Load()
	f(&next)
	if err := linux.SaveRecord(c.m.recordPath(c.id), next, linux.SurviveProcess); err != nil {
		return fmt.Errorf("save container %s: %w", c.id, err)
	}
	c.showLocked(&next)
	return nil
}

// exitedWith records how the container ended, once.
func (c *Container) exitedWith(e monitor.Event) {
	c.mu.Lock()
	defer c.unlockAndTell()
	c.exitedLocked(e)
}

func (c *Container) exitedLocked(e monitor.Event) {
	s := c.status.Load()
	switch {
	case s.State == Creating, s.Renewing:
		c.early = &e
		return
	case s.State == Exited, s.Process.PID != 0 && !isOf(e, s.Process):
		return // it was told before, maybe of a life before
	}
	code, reason, message := describe(*e.Exit)
	c.m.config.Log.V(logExits).Info("Container exited", "containerID", c.id, "sandboxID", s.Group, "exitCode", code, "reason", reason, "message", message)
	c.insistLocked(func(s *Status) { s.exit(code, reason, message, e.Exit.FinishedAt) })
	close(s.life.gone)
}

// isOf reports whether an event is of a process, which monitors of earlier
// versions do not say.
func isOf(e monitor.Event, p linux.Process) bool {
	return e.Process.PID == 0 || e.Process == p
}

// insistLocked applies f even if that cannot be saved: a full disk must not keep
// secret what has happened. After a restart the monitor and the kernel tell it
// again.
func (c *Container) insistLocked(f func(*Status)) {
	if c.changeLocked(f) != nil {
		next := *c.status.Load()
		f(&next)
		c.showLocked(&next)
	}
}

// describe puts an exit in CRI's words.
func describe(e monitor.Exit) (code int, reason, message string) {
	code = e.Code
	if e.Signal != 0 {
		code = 128 + e.Signal
	}
	switch {
	case e.Lost:
		return exitCodeUnknown, ReasonExitCodeLost, "the container ended while neither the monitor nor the daemon was running"
	case e.OOMKilled:
		reason = ReasonOOMKilled
	case code == 0:
		reason = ReasonCompleted
	default:
		reason = ReasonError
	}
	if e.LogBytesDropped > 0 {
		message = fmt.Sprintf("%d bytes of its output could not be written to the log: %s", e.LogBytesDropped, e.LogError)
	}
	return code, reason, message
}

// finish records an end that no monitor reports.
func (c *Container) finish(code int, reason, message string) {
	c.mu.Lock()
	defer c.unlockAndTell()
	s := c.status.Load()
	if s.State == Exited {
		return
	}
	c.insistLocked(func(s *Status) { s.exit(code, reason, message, time.Now()) })
	close(s.life.gone)
}

// finishLost records an end that nobody can tell anything of.
func (c *Container) finishLost() {
	c.finish(exitCodeUnknown, ReasonExitCodeLost, "the container ended while neither the monitor nor the daemon was running")
}

// expect refuses an operation in any state but one.
func (c *Container) expect(want State) error {
	if got := c.Status().State; got != want {
		return fmt.Errorf("container %s is %s, not %s: %w", c.id, got, want, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// driver is the OCI runtime of the container.
func (c *Container) driver() (*oci.Runtime, error) { return c.m.Handler(c.Status().Handler) }

func (c *Container) logFile() string { return filepath.Join(c.Dir(), "runtime.log") }

// SetRequest replaces what the caller keeps with the container.
func (c *Container) SetRequest(request []byte) error {
	return c.change(func(s *Status) { s.Request = request })
}
