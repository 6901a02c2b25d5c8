package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

const (
	socketName   = "monitor.sock"
	lockName     = "lock"
	indexName    = "containers"
	handoverName = "handover.json"
	recordSuffix = ".json"
	idleTime     = 30 * time.Second
)

// A server is the monitor process.
type server struct {
	ctx     context.Context //nolint:containedctx // the life of the monitor, which sessions and containers hang on
	dir     string
	exe     string
	logger  *slog.Logger
	lock    *os.File
	poller  *poller
	reaper  *reaper
	plain   *spawner
	hiding  *spawner
	cgroups cgroupMounts
	oom     oomAdj
	buffers bufferPool
	hubs    hubs
	slots   slots
	// shrinker is told of creates and of containers that are forgotten.
	shrinker *linux.Shrinker
	// work counts the goroutines that finish containers.
	work sync.WaitGroup

	listener *net.UnixListener
	stop     context.CancelFunc

	mu         sync.Mutex
	containers map[string]*container
	conns      map[*session]struct{}
	// upgrading refuses new creates.
	upgrading bool
	idle      *time.Timer
}

func (m *server) spawner(hide bool) *spawner {
	if hide {
		return m.hiding
	}
	return m.plain
}

// reserve makes a container in the state CREATING. An id whose create is just
// failing is waited for, so that a daemon that retries does not meet itself.
func (m *server) reserve(ctx context.Context, req *CreateRequest) (*container, error) {
	for {
		m.mu.Lock()
		old := m.containers[req.ID]
		if m.upgrading {
			m.mu.Unlock()
			return nil, fmt.Errorf("create container: %w: the monitor is being upgraded", ErrMonitorLost)
		}
		if old == nil {
			c := newContainer(m, containerRecord{
				ID: req.ID, Dir: req.Dir, TTY: req.TTY, LogPath: req.LogPath, MaxLineSize: req.MaxLineSize,
				Stdin: req.Stdin && !req.TTY, StdinOnce: req.StdinOnce, KillCgroup: req.KillCgroupOnExit,
			})
			m.containers[req.ID] = c
			m.shrinker.Worked()
			m.armIdleLocked()
			m.mu.Unlock()
			return c, nil
		}
		m.mu.Unlock()
		if old.isSettled() {
			return nil, fmt.Errorf("create container %s: %w", req.ID, ErrExists)
		}
		select {
		case <-old.settled:
		case <-ctx.Done():
			return nil, fmt.Errorf("create container %s: %w: another create is under way", req.ID, ErrExists)
		}
	}
}

func (m *server) unreserve(c *container) {
	m.shrinker.Worked()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, c.copyRecord().ID)
	m.armIdleLocked()
}

// find returns a container whose create has succeeded.
func (m *server) find(id string) (*container, error) {
	m.mu.Lock()
	c := m.containers[id]
	m.mu.Unlock()
	if c == nil || !c.isSettled() {
		return nil, fmt.Errorf("find container %q: %w", id, ErrNotFound)
	}
	return c, nil
}

func (m *server) list() []ContainerState {
	m.mu.Lock()
	all := make([]*container, 0, len(m.containers))
	for _, c := range m.containers {
		all = append(all, c)
	}
	m.mu.Unlock()
	states := make([]ContainerState, 0, len(all))
	for _, c := range all {
		if c.isSettled() && !c.aborted {
			states = append(states, c.state())
		}
	}
	return states
}

// forget drops an exited container. exit.json stays for the directory's owner.
func (m *server) forget(ctx context.Context, id string) error {
	m.mu.Lock()
	c := m.containers[id]
	m.mu.Unlock()
	if c == nil {
		return nil // forgotten already
	}
	// A create whose daemon has died is being undone: what it makes until then
	// must not come after what its owner removes.
	select {
	case <-c.settled:
	case <-ctx.Done():
		return fmt.Errorf("forget container %s: end its create: %w", id, ctx.Err())
	}
	if c.aborted {
		return nil
	}
	select {
	case <-c.done:
	default:
		if r := c.copyRecord(); r.Process.Alive() {
			return fmt.Errorf("forget container %s: %w: process %d runs", id, ErrState, r.Process.PID)
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return fmt.Errorf("forget container %s: complete its log: %w", id, ctx.Err())
		}
	}
	if err := m.dropRecord(id); err != nil {
		return err
	}
	m.unreserve(c)
	return nil
}

// amend sets the exit status of a container that this monitor could not learn.
func (m *server) amend(id string, status unix.WaitStatus) error {
	c, err := m.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit == nil || !c.exit.Lost {
		return nil
	}
	exit := *c.exit
	exit.setStatus(status)
	c.exit = &exit
	return linux.SaveRecord(filepath.Join(c.record.Dir, exitName), exit, linux.SurviveProcess)
}

func (m *server) recordPath(id string) string {
	return filepath.Join(m.dir, indexName, id+recordSuffix)
}

func (m *server) saveRecord(r containerRecord) error {
	return linux.SaveRecord(m.recordPath(r.ID), r, linux.SurviveProcess)
}

func (m *server) dropRecord(id string) error {
	if err := os.Remove(m.recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// exited tells all daemons of an exit.
func (m *server) exited(e Event) { m.broadcast(eventExit, e) }

func (m *server) broadcast(op string, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		m.logger.Error("event is not sent", "error", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.conns {
		if s.greeted {
			s.conn.send(message{Op: op, Body: raw})
		}
	}
}

// armIdleLocked makes a monitor that has nothing and nobody end by itself, so
// that none is left behind by a daemon that never comes back. Only then is
// there a timer.
func (m *server) armIdleLocked() {
	if m.idle != nil {
		m.idle.Stop()
		m.idle = nil
	}
	if len(m.containers) == 0 && len(m.conns) == 0 && m.ctx.Err() == nil {
		m.idle = time.AfterFunc(idleTime, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if len(m.containers) == 0 && len(m.conns) == 0 {
				m.stop()
			}
		})
	}
}

// shutdown ends the monitor if it has no container.
func (m *server) shutdown() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.containers); n > 0 {
		return fmt.Errorf("shut down monitor: %w: it has %d containers", ErrState, n)
	}
	m.stop()
	return nil
}
