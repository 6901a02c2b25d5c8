package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/cri/cdi"
	"github.com/cri-node/cri-node/pkg/cri/checkpoint"
	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/cri/tracing"
	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/image/signature"
	nodeapi "github.com/cri-node/cri-node/pkg/node"
	"github.com/cri-node/cri-node/pkg/node/logs"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/hooks"
	"github.com/cri-node/cri-node/pkg/runtime/infra"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// node is the daemon's layers, wired.
type node struct {
	server         *cri.Server
	images         *image.Store
	sandboxes      *sandbox.Manager
	people         *nodeapi.Server
	defaultHandler string
	metrics        *telemetry.Metrics
	tracing        *tracing.Provider // nil is off
	// shrinker is told of pulls and of changes of pods and containers.
	shrinker *linux.Shrinker
	// closers end the layers, the newest first.
	closers []func() error
}

func (n *node) close() error {
	var errs []error
	for _, end := range slices.Backward(n.closers) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// probe is what the watchdog asks: a list, as kubelet would.
func (n *node) probe(ctx context.Context) error {
	_, err := n.server.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	return err
}

// debtInterval is how often a network that could not be released is tried
// again.
const debtInterval = time.Minute

// settle releases, until ctx ends, what a broken CNI plugin made stopped pods
// keep, and the memory that work has left behind.
func (n *node) settle(ctx context.Context) {
	tick := time.NewTicker(debtInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.shrinker.Due():
			if err := n.shrinker.Shrink(); err != nil {
				klog.FromContext(ctx).Error(err, "Memory is not given back")
			}
		case <-tick.C:
			if err := guard.Call(klog.FromContext(ctx), "the settling of debts", func() error { return n.sandboxes.SettleDebts(ctx) }); err != nil {
				klog.FromContext(ctx).Error(err, "The network of a stopped pod is still not released")
			}
		}
	}
}

// build makes the layers in the order in which they need one another, and
// recovers each before the next one relies on it.
func build(ctx context.Context, cfg *config.Config, version string) (n *node, err error) {
	n = &node{metrics: telemetry.New(version), shrinker: linux.NewShrinker()}
	n.closers = append(n.closers, func() error { n.shrinker.Stop(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := n.openTracing(ctx, cfg.Tracing, version); err != nil {
		return nil, err
	}
	cgroups, err := linux.DetectCgroups()
	if err != nil {
		return nil, err
	}
	driver := cgroupDriver(cfg.Runtime.CgroupDriver)
	handlers, err := n.openHandlers(ctx, cfg, cgroups, driver)
	if err != nil {
		return nil, err
	}
	images, err := n.openImages(ctx, cfg)
	if err != nil {
		return nil, err
	}
	net, err := n.openNetwork(ctx, cfg)
	if err != nil {
		return nil, err
	}
	changes, peoples := &cri.Changes{}, nodeapi.NewChanges()
	containers, supervisor, err := n.openContainers(ctx, cfg, runtime.Config{
		Root: cfg.Root, State: cfg.State,
		Handlers:   handlers,
		Rootfs:     rootfs{images},
		Cgroups:    cgroups,
		MaxLogLine: int(cfg.Runtime.MaxLogLine),
		Log:        klog.FromContext(ctx),
		OnChange:   func(c runtime.Change) { n.shrinker.Worked(); changes.Container(c); peoples.Container(c) },

		CreateTimeout: cfg.Runtime.CreateTimeout.Duration,
	})
	if err != nil {
		return nil, err
	}
	infraRoot := filepath.Join(cfg.State, "infra")
	if err := infra.Install(infraRoot); err != nil {
		// Only pods that share a pid namespace or have a user namespace need
		// it, and they will say so.
		klog.FromContext(ctx).Error(err, "Pods cannot share a pid namespace or have a user namespace")
	}
	// Containers are recovered, and those half made removed, before their
	// sandboxes are: a container may hold a sandbox's namespaces.
	sandboxes := sandbox.NewManager(sandbox.Config{
		Root: cfg.Root, State: cfg.State, Network: net, DefaultSysctls: cfg.Runtime.DefaultSysctls,
		OnChange: func(c sandbox.Change) { n.shrinker.Worked(); changes.Sandbox(c) },
		Holder:   []string{infra.Path(infraRoot)},
	})
	n.sandboxes = sandboxes
	n.closers = append(n.closers, sandboxes.Close)
	if err := sandboxes.Recover(ctx); err != nil {
		return nil, fmt.Errorf("recover sandboxes: %w", err)
	}
	streams, err := n.listenStreams(ctx, cfg.Streaming)
	if err != nil {
		return nil, err
	}
	key, err := checkpointKey(cfg)
	if err != nil {
		return nil, err
	}
	n.server = cri.New(ctx, cri.Config{
		Streams: streams,
		CDI:     cdi.New(cfg.Runtime.CDIDirs), Hooks: hooks.Open(cfg.Runtime.HooksDirs),
		Images: images, Sandboxes: sandboxes, Containers: containers, Network: net, Cgroups: cgroups,
		Handlers: handlers, DefaultHandler: n.defaultHandler,
		Root: cfg.Root, State: cfg.State, Version: version,
		SystemdCgroup: driver == config.CgroupSystemd,
		CgroupRoot:    cgroupRoot(cfg.Runtime.CgroupRoot, driver),
		InfraRoot:     infraRoot,
		MaxMessage:    int(cfg.Server.MaxRecv),
		NRI:           nriConfig(ctx, cfg.NRI),
		MonitorPID:    supervisor.PID,
		Changes:       changes,
		Metrics:       n.metrics,
		Tracing:       n.tracing,
		CheckpointKey: key,
		Options:       options(cfg),

		UserNamespaces: probeUserNS(ctx, images, infraRoot),
		Confinement:    cri.DetectConfinement(ctx, cfg.State),
	})
	n.people = nodeapi.New(nodeapi.Config{
		CRI: n.server, Images: images, Sandboxes: sandboxes, Containers: containers, Changes: peoples,
		Root: cfg.Root, State: cfg.State, Version: version, Logs: logs.Bounds{Size: int64(cfg.People.LogMaxSize), Files: cfg.People.LogMaxFiles},
	})
	if err := n.registerPeople(ctx, cfg); err != nil {
		return nil, err
	}
	n.startNRI(ctx)
	n.serveStreams(ctx, streams)
	return n, errors.Join(n.startPeople(ctx), n.openAdmin(ctx, cfg.Admin.Address, supervisor))
}

// registerPeople registers the API for people, and reconciles: what builds have
// left goes first, before anything asks whose it is.
func (n *node) registerPeople(ctx context.Context, cfg *config.Config) error {
	if err := n.people.OpenBuilder(ctx, int64(cfg.Build.CacheSize)); err != nil {
		return fmt.Errorf("open builder: %w", err)
	}
	n.server.Register(n.people)
	n.server.Reconcile(ctx)
	return nil
}

// startPeople goes on with what people's containers need.
func (n *node) startPeople(ctx context.Context) error {
	if err := n.people.Start(ctx); err != nil {
		return fmt.Errorf("start the API for people: %w", err)
	}
	n.closers = append(n.closers, n.people.Close)
	return nil
}

func (n *node) openImages(ctx context.Context, cfg *config.Config) (*image.Store, error) {
	policy, err := signature.Load(cfg.Image.SignatureRules())
	if err != nil {
		return nil, fmt.Errorf("image.signatures: %w", err)
	}
	measured := n.metrics.Stages("PullImage")
	images, err := image.Open(ctx, image.Config{
		Root:              filepath.Join(cfg.Root, "image"),
		CertsDirs:         cfg.Image.CertsDirs,
		AuthFiles:         cfg.Image.AuthFiles,
		TrustedRealms:     cfg.Image.TrustedRealms,
		MaxParallelLayers: cfg.Image.MaxParallelLayers,
		ProgressTimeout:   cfg.Image.ProgressTimeout.Duration,
		PinnedImages:      cfg.Image.Pinned,
		KeepCompressed:    cfg.Image.KeepCompressed,
		Policy:            policy,
		OnStage:           func(stage string, took time.Duration) { n.shrinker.Worked(); measured(stage, took) },
	})
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	n.images = images
	n.closers = append(n.closers, images.Close)
	return images, nil
}

// openAdmin serves metrics, health and profiles, unless address is empty.
func (n *node) openAdmin(ctx context.Context, address string, supervisor *monitor.Supervisor) error {
	if address == "" {
		return nil
	}
	source := n.server.Source()
	source.PulledBytes = func() float64 { return float64(n.images.ReceivedBytes()) }
	source.SpansDropped = func() float64 { return float64(n.tracing.Dropped()) }
	source.MonitorRestarts = func() float64 { return float64(supervisor.Restarts()) }
	n.metrics.Observe(source)
	mux := http.NewServeMux()
	mux.Handle("/metrics", n.metrics.Handler())
	mux.Handle("/healthz", health([]check{
		{"runtime-service", n.probe},
		{"monitor", func(context.Context) error {
			if supervisor.PID() == 0 {
				return errors.New("the monitor does not run")
			}
			return nil
		}},
	}))
	addProfiles(mux)
	stop, err := serveAdmin(ctx, address, mux)
	if err != nil {
		return err
	}
	n.closers = append(n.closers, stop)
	return nil
}

func (n *node) openNetwork(ctx context.Context, cfg *config.Config) (*network.Network, error) {
	exeDir, err := executableDir()
	if err != nil {
		return nil, err
	}
	net, err := network.New(network.Config{
		ConfDir: cfg.Network.ConfDir,

		ConfTemplate: cfg.Network.ConfTemplate,
		PluginDirs:   cfg.CNIPluginDirs(exeDir),
		CacheDir:     filepath.Join(cfg.Root, "cni"),
		InProcess:    cfg.Network.InProcess,
		OnPlugin:     n.metrics.CNI,
		DefaultNetwork: network.DefaultNetwork{
			Disabled: !cfg.Network.Default,
			Bridge:   cfg.Network.DefaultBridge,
			Subnets:  cfg.Network.DefaultSubnets,
			Fixed:    cfg.IsSet("network.default_subnets"),
			DataDir:  cfg.Network.DataDir,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if err := net.Start(ctx); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	n.closers = append(n.closers, net.Close)
	return net, nil
}

// openContainers loads the containers, reaches or starts the monitor, and lets
// the two agree.
func (n *node) openContainers(ctx context.Context, cfg *config.Config, c runtime.Config) (*runtime.Manager, *monitor.Supervisor, error) {
	containers := runtime.NewManager(c)
	if err := containers.Load(ctx); err != nil {
		return nil, nil, fmt.Errorf("load containers: %w", err)
	}
	supervisor, err := monitor.Start(ctx, monitor.Config{
		Dir:     filepath.Join(cfg.State, "monitor"),
		OnEvent: containers.HandleEvent,
		Logger:  slog.New(logr.ToSlogHandler(klog.FromContext(ctx))),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start monitor: %w", err)
	}
	n.closers = append(n.closers, supervisor.Close)
	if err := upgradeMonitor(ctx, supervisor); err != nil {
		// It speaks our protocol; its own fixes have to wait.
		klog.FromContext(ctx).Error(err, "The monitor goes on with the program of an earlier version")
	}
	if err := containers.Recover(ctx, supervisor); err != nil {
		return nil, nil, fmt.Errorf("recover containers: %w", err)
	}
	return containers, supervisor, nil
}

// upgradeTime bounds the replacing of the monitor's program.
const upgradeTime = 30 * time.Second

// upgradeMonitor puts this daemon's own program in the place of the monitor's,
// where that is another one: the monitor outlives daemons, but need not stay
// behind them. Its containers notice nothing.
func upgradeMonitor(ctx context.Context, supervisor *monitor.Supervisor) error {
	ours, err := linux.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	theirs, err := linux.FindProcess(supervisor.PID())
	if err != nil {
		return err
	}
	want, err := ours.Executable()
	if err != nil {
		return err
	}
	got, err := theirs.Executable()
	if err != nil || got == want {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	klog.FromContext(ctx).Info("Replacing the monitor's program", "pid", supervisor.PID())
	return supervisor.Upgrade(ctx)
}

// openHandlers asks each OCI runtime what it can do.
func (n *node) openHandlers(ctx context.Context, cfg *config.Config, cgroups *linux.Cgroups, driver string) (map[string]*oci.Runtime, error) {
	exeDir, err := executableDir()
	if err != nil {
		return nil, err
	}
	configured, name, err := cfg.ResolveHandlers(exeDir)
	if err != nil {
		return nil, err
	}
	n.defaultHandler = name
	handlers := make(map[string]*oci.Runtime, len(configured))
	for name, h := range configured {
		root := h.Root
		if root == "" {
			root = filepath.Join(cfg.State, "runtime", name)
		}
		r, err := oci.Open(ctx, oci.Config{
			Handler: name, Path: h.Path, Root: root,
			SystemdCgroup: driver == config.CgroupSystemd,
			HideUnified:   cgroups.Hybrid(),
		})
		if _, asked := cfg.Runtime.Handlers[name]; err != nil && (asked || name == n.defaultHandler) {
			return nil, err
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "An OCI runtime found on this machine is of no use", "path", h.Path)
			continue
		}
		handlers[name] = r
		klog.FromContext(ctx).Info("OCI runtime", "handler", name, "path", h.Path, "version", r.Features().Version)
	}
	return handlers, nil
}

// probeUserNS tries what a pod with a user namespace needs of the kernel and of
// the file system that images are on.
func probeUserNS(ctx context.Context, images *image.Store, infraRoot string) bool {
	some := []linux.IDMap{{ContainerID: 0, HostID: 1 << 16, Length: 1 << 16}}
	ids := linux.IDMappings{UIDs: some, GIDs: some}
	err := linux.InNewUserNS([]string{infra.Path(infraRoot)}, ids, 0, func(pid int) error {
		return images.ProbeIDMap(ctx, &linux.UserNS{Path: fmt.Sprintf("/proc/%d/ns/user", pid), IDMappings: ids})
	})
	if err != nil {
		klog.FromContext(ctx).Info("Pods cannot have user namespaces on this machine", "reason", err)
	}
	return err == nil
}

// cgroupDriver resolves "auto": systemd where it is the init of the machine.
func cgroupDriver(configured string) string {
	if configured != config.CgroupAuto {
		return configured
	}
	if st, err := os.Lstat("/run/systemd/system"); err == nil && st.IsDir() {
		return config.CgroupSystemd
	}
	return config.CgroupCgroupfs
}

// cgroupRoot is the configured parent in the form of the driver: with systemd
// a slice, which the path of cgroupfs is none.
func cgroupRoot(configured, driver string) string {
	if driver == config.CgroupSystemd && !strings.HasSuffix(configured, ".slice") {
		return "system.slice"
	}
	return configured
}

// rootfs fits the image store to what containers need of it.
type rootfs struct{ *image.Store }

func (r rootfs) MountRootfs(ctx context.Context, containerID, target string, o runtime.RootfsOptions) error {
	return r.Store.MountRootfs(ctx, containerID, target, image.RootfsOptions{UserNS: o.UserNS, Label: o.Label, Durable: o.Durable})
}

// checkpointKey loads the key of checkpoints, where there are to be any, and
// takes away what a daemon left that died while it made one.
func checkpointKey(cfg *config.Config) (*checkpoint.Key, error) {
	if err := linux.RemoveAll(filepath.Join(cfg.Root, "checkpoints")); err != nil {
		return nil, fmt.Errorf("remove unfinished checkpoints: %w", err)
	}
	if !cfg.Checkpoint.Enable {
		return nil, nil //nolint:nilnil // there are none
	}
	file := cfg.Checkpoint.KeyFile
	if file == "" {
		file = filepath.Join(cfg.Root, "checkpoint.key")
	}
	key, err := checkpoint.LoadKey(file)
	if err != nil {
		return nil, err
	}
	return &key, nil
}
