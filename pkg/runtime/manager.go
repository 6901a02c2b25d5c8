package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/revision"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// Rootfs makes root file systems from images. Every method is idempotent; the
// image store is the one behind it.
type Rootfs interface {
	PrepareRootfs(ctx context.Context, containerID, imageID string) error
	MountRootfs(ctx context.Context, containerID, target string, o RootfsOptions) error
	UnmountRootfs(ctx context.Context, containerID, target string) error
	RemoveRootfs(ctx context.Context, containerID string) error
}

// RootfsOptions say how to mount a root file system.
type RootfsOptions struct {
	// UserNS maps the owners of files; nil leaves them.
	UserNS *linux.UserNS
	// Label is the SELinux label of all files, if any.
	Label string
	// Durable: it is to outlive the machine's power as far as its programs sync
	// what they write.
	Durable bool
}

// Config of a Manager.
type Config struct {
	// Root is the durable directory, State the one that ends with the boot.
	Root, State string
	// Handlers are the OCI runtimes by name.
	Handlers map[string]*oci.Runtime
	Rootfs   Rootfs
	Cgroups  *linux.Cgroups
	// MaxLogLine is the longest line in a container's log, in bytes; longer
	// ones are split. 0 means 16 KiB.
	MaxLogLine int
	// CreateTimeout bounds one run of the OCI runtime's create. 0 means two
	// minutes.
	CreateTimeout time.Duration
	// Log is told of exits, which no call reports. The zero Logger is silent.
	Log klog.Logger
	// OnChange, if set, is told of each transition of a container that others
	// can see, see Change. No mutex is held, but the operation that made the
	// change may still be under way: it must not block.
	OnChange func(Change)
}

// Manager keeps all containers of a node.
type Manager struct {
	config  Config
	monitor *monitor.Supervisor

	mu         sync.Mutex
	containers map[string]*Container
	changes    revision.Counter // of containers, and of the status of each

	// fileWork bounds the execs that work on files at a time.
	fileWork chan struct{}
}

// NewManager returns a Manager without containers; Recover fills it.
func NewManager(c Config) *Manager {
	return &Manager{config: c, containers: map[string]*Container{}, fileWork: make(chan struct{}, maxFileWork)}
}

// Handler returns the OCI runtime of a name.
func (m *Manager) Handler(name string) (*oci.Runtime, error) {
	r, ok := m.config.Handlers[name]
	if !ok {
		return nil, fmt.Errorf("runtime handler %q is not configured: %w", name, errdefs.ErrNotFound)
	}
	return r, nil
}

// Get returns a container by its id, also one that is still Creating.
func (m *Manager) Get(id string) (*Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// List returns the containers that have been created, infra ones too, oldest
// first.
func (m *Manager) List() []*Container {
	m.mu.Lock()
	list := make([]*Container, 0, len(m.containers))
	for _, c := range m.containers {
		if c.Status().State != Creating {
			list = append(list, c)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b *Container) int {
		if c := a.Status().CreatedAt.Compare(b.Status().CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return list
}

// Revision is another number after each change of what List returns, and of the
// status of any of them.
func (m *Manager) Revision() uint64 { return m.changes.Now() }

// Group returns all containers of a sandbox, also those still Creating.
func (m *Manager) Group(group string) []*Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*Container
	for _, c := range m.containers {
		if c.Status().Group == group {
			list = append(list, c)
		}
	}
	return list
}

// Lookup finds the container of a name and attempt in a sandbox.
func (m *Manager) Lookup(group, name string, attempt uint32) (*Container, bool) {
	for _, c := range m.Group(group) {
		s := c.Status()
		if s.Name == name && s.Attempt == attempt && !s.Infra {
			return c, true
		}
	}
	return nil, false
}

func (m *Manager) add(c *Container) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.containers[c.id]; ok {
		return fmt.Errorf("container %q: %w", c.id, errdefs.ErrAlreadyExists)
	}
	m.containers[c.id] = c
	m.changes.Changed()
	return nil
}

func (m *Manager) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, id)
	m.changes.Changed()
}

// recordDir and stateDir are a container's two directories.
func (m *Manager) recordDir(id string) string { return filepath.Join(m.config.Root, "containers", id) }
func (m *Manager) stateDir(id string) string  { return filepath.Join(m.config.State, "containers", id) }

func (m *Manager) recordPath(id string) string {
	return filepath.Join(m.recordDir(id), "record.json")
}

// makeDirs creates both directories of a container. Its root file system is
// full of setuid programs and others' files, so that nobody else on the host
// may get to it; the root of a user namespace, who is somebody else, must, by
// the group that is its alone.
func (m *Manager) makeDirs(id string, userns *linux.UserNS) error {
	dir := m.stateDir(id)
	err := errors.Join(
		os.MkdirAll(m.recordDir(id), 0o700),
		os.MkdirAll(dir, 0o700),
	)
	if err == nil && userns != nil {
		_, gid := userns.Root()
		err = errors.Join(os.Chown(dir, 0, gid), os.Chmod(dir, 0o710))
	}
	return errors.Join(err, os.MkdirAll(filepath.Join(dir, "rootfs"), 0o711))
}

// HandleEvent takes the news of a container's exit from the monitor. It may be
// told the same exit many times, and of containers it does not know.
func (m *Manager) HandleEvent(e monitor.Event) {
	if e.Exit == nil {
		return
	}
	if c, err := m.Get(e.ID); err == nil {
		c.exitedWith(e)
	}
}
