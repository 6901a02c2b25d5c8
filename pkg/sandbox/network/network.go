package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sync/semaphore"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// IfName is the name of the interface that every pod gets.
const IfName = "eth0"

// Config says where things are. The zero value of a field means its default.
type Config struct {
	// ConfDir holds CNI configurations; default /etc/cni/net.d. It need not
	// exist.
	ConfDir string
	// PluginDirs are searched in order for plugins; default /opt/cni/bin.
	PluginDirs []string
	// ConfTemplate is a text/template of a configuration, which SetPodCIDRs
	// fills in and puts into ConfDir; "" means none.
	ConfTemplate string
	// CacheDir keeps intents and results; default /var/lib/cni. It must
	// survive the process, and should survive the boot.
	CacheDir string
	// InProcess runs the plugins this package implements without executing
	// them.
	InProcess bool
	// DefaultNetwork is used where ConfDir has no configuration.
	DefaultNetwork DefaultNetwork
	// MaxParallel limits in-process plugins that use netlink at once; default 2.
	MaxParallel int
	// OnPlugin, if set, is told of each run of a plugin: the CNI command and
	// the plugin's type.
	OnPlugin func(command, plugin string, took time.Duration, err error)
}

// DefaultNetwork describes the embedded network.
type DefaultNetwork struct {
	// Disabled means that pods wait for a configuration in ConfDir.
	Disabled bool
	// Bridge is the name of its bridge; default cni-node0.
	Bridge string
	// Subnets has at most one IPv4 and one IPv6 prefix; default 10.87.0.0/24
	// and fd6c:7e3b:91d4::/64. IPv6 is left out where the kernel has none.
	Subnets []netip.Prefix
	// Fixed: Subnets are the operator's, and SetPodCIDRs does not change them.
	Fixed bool
	// DataDir keeps the address reservations; default /var/lib/cni/networks.
	DataDir string
	// replace: the bridge may have another address, which goes.
	replace bool
}

// Network attaches pods to the configured CNI network.
type Network struct {
	cfg   Config
	state atomic.Pointer[confState]
	masq  *masquerade
	rtnl  *semaphore.Weighted
	ids   idLocks
	check statusCache

	reloading sync.Mutex // orders reloads; never held by Status or Attach

	settingCIDRs sync.Mutex // orders SetPodCIDRs; comes before reloading
	podCIDRs     atomic.Pointer[[]netip.Prefix]

	// Set by Start, constant afterwards.
	started  bool
	stop     context.CancelFunc
	running  sync.WaitGroup
	watch    *confWatch // nil without inotify
	watchErr error      // why watch is nil
	reaper   reaper

	// live has the attachments made by this process and not yet detached. GC
	// leaves them alone: the caller's list of valid ids may be older.
	liveMu sync.Mutex
	live   map[string]bool
	// mapped has the pods with host ports; liveMu guards it too.
	mapped map[string]bool
	rules  *ruleWatch // nil where nftables tells no changes
}

// New returns a Network and reads the configuration once. It starts nothing.
func New(cfg Config) (*Network, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.CacheDir, filepath.Join(cfg.CacheDir, intentDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create CNI cache directory: %w", err)
		}
	}
	// The kernel names open files by their real path; see lockHolders.
	dir, err := filepath.EvalSymlinks(cfg.CacheDir)
	if err != nil {
		return nil, fmt.Errorf("resolve CNI cache directory: %w", err)
	}
	cfg.CacheDir = dir
	// What an interrupted save of a killed process has left.
	if err := linux.EmptyTrash(filepath.Join(dir, intentDir)); err != nil {
		return nil, fmt.Errorf("remove temporary files of network intents: %w", err)
	}
	n := &Network{
		cfg:    cfg,
		masq:   &masquerade{},
		reaper: reaper{wake: make(chan struct{}, 1)},
		rtnl:   semaphore.NewWeighted(int64(cfg.MaxParallel)),
		live:   map[string]bool{},
		mapped: map[string]bool{},
	}
	n.restorePodCIDRs()
	n.reload()
	return n, nil
}

func (c Config) withDefaults() Config {
	if c.ConfDir == "" {
		c.ConfDir = "/etc/cni/net.d"
	}
	if len(c.PluginDirs) == 0 {
		c.PluginDirs = []string{"/opt/cni/bin"}
	}
	if c.CacheDir == "" {
		c.CacheDir = libcni.CacheDir
	}
	if c.MaxParallel <= 0 {
		c.MaxParallel = min(2, runtime.NumCPU())
	}
	c.DefaultNetwork = c.DefaultNetwork.withDefaults()
	return c
}

func (c Config) validate() error {
	for _, dir := range append([]string{c.ConfDir, c.CacheDir}, c.PluginDirs...) {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("directory %q is not an absolute path", dir)
		}
		// libcni hands the plugin directories on as one list.
		if strings.ContainsRune(dir, os.PathListSeparator) {
			return fmt.Errorf("directory %q contains %q", dir, os.PathListSeparator)
		}
	}
	return c.DefaultNetwork.validate()
}

// Start watches the configuration directory, and deletes the interfaces of
// detached pods in the background, until Close.
func (n *Network) Start(ctx context.Context) error {
	if n.started {
		return errors.New("start network: already started")
	}
	n.started = true
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.running.Go(func() { n.reaper.run(ctx) })
	if err := n.startHostPorts(ctx); err != nil {
		return err
	}
	w, err := newConfWatch(n.cfg.ConfDir)
	if err != nil {
		// Without inotify, Status and Attach look at the directory themselves.
		n.watchErr = err
		return nil //nolint:nilerr // Info reports it
	}
	n.watch = w
	w.follow()
	n.running.Go(func() {
		w.run(ctx, func() {
			// What it was is in the log, and the configuration of before stays.
			_ = guard.Call(klog.FromContext(ctx), "the reading of CNI's configuration", func() error { n.reload(); return nil })
		})
	})
	// What appeared between New and the watch made no event.
	n.reload()
	return nil
}

// Close ends what Start began and waits for it. Attachments stay.
func (n *Network) Close() error {
	if !n.started {
		return nil
	}
	n.stop()
	var err error
	if n.rules != nil {
		err = n.rules.close()
	}
	n.running.Wait()
	if n.watch == nil {
		return err
	}
	return errors.Join(err, n.watch.close())
}

// Known returns the ids of all attachments there is something to undo for.
func (n *Network) Known() ([]string, error) {
	ids, err := n.intentIDs()
	if err != nil {
		return nil, err
	}
	cached, err := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, n.cfg.CacheDir, nil).GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("list cached CNI results: %w", err)
	}
	for _, a := range cached {
		ids = append(ids, a.ContainerID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func (n *Network) setLive(id string, live bool) {
	n.liveMu.Lock()
	defer n.liveMu.Unlock()
	if live {
		n.live[id] = true
	} else {
		delete(n.live, id)
	}
}

func (n *Network) isLive(id string) bool {
	n.liveMu.Lock()
	defer n.liveMu.Unlock()
	return n.live[id]
}

func (n *Network) liveIDs() []string {
	n.liveMu.Lock()
	defer n.liveMu.Unlock()
	ids := make([]string, 0, len(n.live))
	for id := range n.live {
		ids = append(ids, id)
	}
	return ids
}

// idLocks is a mutex for each id that a context can give up waiting for.
type idLocks struct {
	mu   sync.Mutex
	held map[string]*idLock
}

type idLock struct {
	free chan struct{} // holds one token while nobody has the lock
	refs int
}

// lock waits for id and returns what releases it.
func (l *idLocks) lock(ctx context.Context, id string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*idLock{}
	}
	e := l.held[id]
	if e == nil {
		e = &idLock{free: make(chan struct{}, 1)}
		e.free <- struct{}{}
		l.held[id] = e
	}
	e.refs++
	l.mu.Unlock()

	drop := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if e.refs--; e.refs == 0 {
			delete(l.held, id)
		}
	}
	select {
	case <-e.free:
		return func() { e.free <- struct{}{}; drop() }, nil
	case <-ctx.Done():
		drop()
		return nil, fmt.Errorf("wait for another operation on the network of %s: %w", id, ctx.Err())
	}
}

// cleanupTimeout bounds the DEL that undoes a failed ADD; the request that
// failed has often used up its own deadline.
const cleanupTimeout = 30 * time.Second
