package nri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

// Config of a Manager.
type Config struct {
	// Socket is where plugins connect; empty for plugins of PluginDir only.
	Socket string
	// PluginDir has plugins that are started with the daemon, ConfigDir their
	// configuration.
	PluginDir, ConfigDir string
	// RegistrationTimeout bounds the registration of a plugin and, apart from
	// that, its Synchronize; RequestTimeout every other request.
	RegistrationTimeout, RequestTimeout time.Duration
	// Validator checks what plugins do to containers, see the library.
	Validator Validator
	// Name and Version of the runtime, as plugins get to know it.
	Name, Version string
	// InjectCDI puts devices with these qualified names into a spec. Nil: a
	// plugin that asks for one gets its container refused.
	InjectCDI func(spec *specs.Spec, devices []string) error
}

// Validator is the configuration of the library's own validating plugin.
type Validator = validator.DefaultValidatorConfig

// Node is what plugins see and act on. Its methods may be called at any time,
// and from within steps that the node itself is telling.
type Node interface {
	// Pod and Container describe what is there now.
	Pod(id string) (*Pod, error)
	Container(id string) (*Container, error)
	// Update changes limits of a container that was created.
	Update(ctx context.Context, containerID string, resources *api.LinuxResources) error
	// Evict stops a container for a reason of a plugin's.
	Evict(ctx context.Context, containerID, reason string) error
}

// Manager tells plugins. A nil Manager tells nobody and works.
type Manager struct {
	config Config
	node   Node
	log    klog.Logger
	// stopLater tells of the end of a container that nobody waits for.
	stopLater  func(id string)
	adaptation *adaptation.Adaptation
	listens    bool
	// plugins is how many are connected. It is exact for who blocks the
	// synchronization of plugins, but for those that went away unnoticed.
	plugins atomic.Int32
	// started is closed once the plugins of PluginDir have been synchronized.
	started chan struct{}

	mu         sync.Mutex
	pods       map[string]*object
	containers map[string]*object
	closed     bool
	closing    chan struct{}  // closed with closed
	work       sync.WaitGroup // grows under mu only
}

// SetLog makes the library log through log. It has one logger for all of a
// process, which must not be changed once a Manager has been made.
func SetLog(log klog.Logger) { nrilog.Set(logger{log}) }

// New returns a Manager that knows nothing and has no plugins yet.
func New(ctx context.Context, c Config, node Node) (*Manager, error) {
	m := &Manager{
		config: c, node: node, log: klog.FromContext(ctx),
		started: make(chan struct{}), closing: make(chan struct{}),
		pods: map[string]*object{}, containers: map[string]*object{},
	}
	m.stopLater = func(id string) {
		m.spawn(func() { m.noted(m.stopContainer(context.WithoutCancel(ctx), id, m.hasEnded), "containerID", id) })
	}
	adaptation.SetPluginRegistrationTimeout(c.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(c.RequestTimeout)
	options := []adaptation.Option{
		adaptation.WithPluginPath(c.PluginDir),
		adaptation.WithPluginConfigPath(c.ConfigDir),
		adaptation.WithMetrics(counter{&m.plugins}),
		adaptation.WithDefaultValidator(&c.Validator),
	}
	var busy error
	if c.Socket == "" || answers(ctx, c.Socket) {
		if c.Socket != "" {
			// The library would take the address away from who listens there.
			busy = fmt.Errorf("nri.socket: another program serves on %s", c.Socket)
		}
		options = append(options, adaptation.WithDisabledExternalConnections())
	} else {
		m.listens = true
		options = append(options, adaptation.WithSocketPath(c.Socket))
	}
	var err error
	m.adaptation, err = adaptation.New(c.Name, c.Version, m.synchronize, m.updates, options...)
	if err != nil {
		return nil, fmt.Errorf("prepare NRI: %w", err)
	}
	if busy != nil {
		m.log.Error(busy, "NRI plugins cannot connect")
	}
	return m, nil
}

// answers reports whether somebody listens on a unix socket.
func answers(ctx context.Context, path string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ENOTSOCK)
	}
	_ = conn.Close() // nothing was sent
	return true
}

// Start takes what there is on the node into the table, starts the plugins of
// PluginDir and lets others connect. On an error nobody can connect, and the
// Manager works as without plugins, or with those that have been started.
func (m *Manager) Start(known Known) error {
	if m == nil {
		return nil
	}
	defer close(m.started)
	m.fill(known)
	if err := m.adaptation.Start(); err != nil {
		return fmt.Errorf("start NRI: %w", err)
	}
	if m.listens {
		// It is root's alone, whatever directory it is in.
		if err := os.Chmod(m.config.Socket, 0o600); err != nil {
			return fmt.Errorf("start NRI: %w", err)
		}
	}
	return nil
}

// Close refuses plugins and waits for what is being told. Pods and containers
// go on.
func (m *Manager) Close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.closing)
	}
	m.mu.Unlock()
	m.work.Wait()
	m.adaptation.Stop()
}

// spawn runs f, which Close waits for.
func (m *Manager) spawn(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.work.Go(f)
	}
}

// connected reports whether there is a plugin to tell. The caller blocks the
// synchronization of plugins.
func (m *Manager) connected() bool { return m.plugins.Load() > 0 }

// tell runs relay, if there are plugins, after the step it tells has been
// entered in the table. A panic is an error: what plugins send must not end
// the daemon.
func (m *Manager) tell(event string, enter func(), relay func() error) error {
	block := m.adaptation.BlockPluginSync()
	defer block.Unblock()
	m.mu.Lock()
	enter()
	m.mu.Unlock()
	if !m.connected() {
		return nil
	}
	return m.guard(event, relay)
}

func (m *Manager) guard(event string, f func() error) error {
	if err := guard.Call(m.log, event, f); err != nil {
		return fmt.Errorf("NRI %s: %w", event, err)
	}
	return nil
}

// counter lets the library tell how many plugins there are.
type counter struct{ plugins *atomic.Int32 }

func (counter) RecordPluginInvocation(string, string, error)      {}
func (counter) RecordPluginLatency(string, string, time.Duration) {}
func (c counter) UpdatePluginCount(n int)                         { c.plugins.Store(int32(n)) }
func (counter) RecordPluginAdjustments(string, string, *api.ContainerAdjustment, int, int) {
}

// logger puts the library's messages in the daemon's log.
type logger struct{ log klog.Logger }

// Levels of the library's messages that are no trouble.
const (
	logInfo  = 2
	logDebug = 5
)

func (l logger) Debugf(_ context.Context, format string, args ...any) {
	if v := l.log.V(logDebug); v.Enabled() {
		v.Info("NRI: " + fmt.Sprintf(format, args...))
	}
}

func (l logger) Infof(_ context.Context, format string, args ...any) {
	if v := l.log.V(logInfo); v.Enabled() {
		v.Info("NRI: " + fmt.Sprintf(format, args...))
	}
}

func (l logger) Warnf(_ context.Context, format string, args ...any) {
	l.log.Info("NRI: " + fmt.Sprintf(format, args...))
}

func (l logger) Errorf(_ context.Context, format string, args ...any) {
	l.log.Error(nil, "NRI: "+fmt.Sprintf(format, args...))
}
