package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/image/signature"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// drainTimeout is how long calls under way may take to end after SIGTERM.
const drainTimeout = 30 * time.Second

// pullGrace is how long before its end pulls are told to stop by themselves:
// they then keep what they have, as they do not for a caller who went away.
const pullGrace = 2 * time.Second

// gcPercent is how much the heap may grow between collections, half of Go's
// default.
const gcPercent = 50

// serve runs the daemon until ctx ends: it takes the directories for itself,
// builds the layers from the bottom up, recovers what an earlier daemon left,
// and only then answers. On the way down it stops in the opposite order.
func serve(ctx context.Context, o serveOptions) (err error) {
	// The live heap is a few megabytes; a collection of it costs less than the
	// memory that putting it off would hold on every node.
	debug.SetGCPercent(gcPercent)
	unix.Umask(0o022) // modes are what they say, whatever shell this was started from
	log := klog.FromContext(ctx)
	log.Info("Starting", "version", o.version, "root", o.cfg.Root, "state", o.cfg.State)

	// What a careless parent left open must not reach plugins and containers.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		log.Error(err, "Inherited files cannot be marked close-on-exec")
	}
	unlock, err := takeDirectories(o.cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// Before anything is started that would stay.
	if err := checkAddress(o.cfg.Server); err != nil {
		return err
	}

	// The helpers below end with serving, also where it ends by an error.
	ctx, end := context.WithCancel(ctx)
	defer end()
	// Work that outlives requests ends in an orderly way, not with ctx.
	n, err := build(context.WithoutCancel(ctx), o.cfg, o.version)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()

	listener, err := listen(o.cfg.Server)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(listener) }()
	log.Info("Ready", "listen", o.cfg.Server.Listen, "handler", n.defaultHandler)
	if err := o.notifier.Ready(); err != nil {
		log.Error(err, "The service manager cannot be told")
	}
	watchdog := make(chan struct{})
	go func() {
		defer close(watchdog)
		o.notifier.RunWatchdog(ctx, n.probe, func(err error) { log.Error(err, "Not healthy") })
	}()

	settled := make(chan struct{})
	go func() {
		defer close(settled)
		n.settle(ctx)
	}()

	err = reloadUntilDone(ctx, o, n, served)
	end()
	<-watchdog
	<-settled
	_ = o.notifier.Stopping()
	log.Info("Stopping: containers go on running")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	pulls := time.AfterFunc(drainTimeout-pullGrace, n.images.StopPulls)
	defer pulls.Stop()
	n.people.EndCalls()
	n.server.Stop(drain)
	return err
}

// takeDirectories makes sure of the two directories and that no other daemon
// uses either of them: recovery removes what it has no record of, so one that
// shared only the state would end the other's containers.
func takeDirectories(cfg *config.Config) (unlock func() error, err error) {
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	// Containers with a user of their own reach their files through it, by
	// names they cannot list.
	if err := os.MkdirAll(cfg.State, 0o711); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := errors.Join(os.Chmod(cfg.Root, 0o700), os.Chmod(cfg.State, 0o711)); err != nil {
		return nil, err
	}
	var locks []io.Closer
	unlock = func() error {
		var errs []error
		for _, lock := range locks {
			errs = append(errs, lock.Close())
		}
		return errors.Join(errs...)
	}
	for _, dir := range []string{cfg.Root, cfg.State} {
		lock, err := linux.Lock(filepath.Join(dir, "lock"))
		if errors.Is(err, linux.ErrLocked) {
			err = fmt.Errorf("another cri-node serves from %s: stop it, or give this one its own --root and --state: %w", dir, err)
		}
		if err != nil {
			return nil, errors.Join(err, unlock())
		}
		locks = append(locks, lock)
	}
	return unlock, nil
}

// listen opens the unix socket. What an earlier daemon left there is replaced.
func listen(cfg config.Server) (net.Listener, error) {
	path := strings.TrimPrefix(cfg.Listen, "unix://")
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	if err := checkAddress(cfg); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	mode := os.FileMode(0o600)
	if cfg.SocketGID != 0 { // a machine may have others in the group of root
		mode = 0o660
	}
	if err := errors.Join(os.Chown(path, 0, cfg.SocketGID), os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(fmt.Errorf("server.listen: %w", err), l.Close())
	}
	return l, nil
}

// checkAddress refuses an address that is in use: it need not be in one of our
// directories, and is no daemon's that died.
func checkAddress(cfg config.Server) error {
	path := strings.TrimPrefix(cfg.Listen, "unix://")
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("server.listen: %w", err)
	case st.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("server.listen: %s is there and is no socket", path)
	case answers(path):
		return fmt.Errorf("server.listen: another program serves on %s", path)
	}
	return nil
}

// answers reports whether somebody may be listening on a unix socket; only a
// refusal says that nobody is.
func answers(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return !errors.Is(err, unix.ECONNREFUSED)
	}
	_ = conn.Close() // nothing was sent
	return true
}

// reloadUntilDone waits for the end and reloads the configuration meanwhile.
func reloadUntilDone(ctx context.Context, o serveOptions, n *node, served <-chan error) error {
	log := klog.FromContext(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return fmt.Errorf("serve CRI: %w", err)
		case <-o.reload:
			_ = o.notifier.Reloading()
			if err := reload(ctx, o, n); err != nil {
				log.Error(err, "The configuration was not reloaded; the old one stays in force")
			} else {
				log.Info("Reloaded the configuration")
			}
			_ = o.notifier.Ready()
		}
	}
}

// reload puts into force what may change while the daemon runs: the log level
// and the defaults of new containers. The registries' files are read at each
// pull, CNI's when they change. What needs a restart is named.
func reload(ctx context.Context, o serveOptions, n *node) error {
	cfg, err := o.load()
	if err != nil {
		return err
	}
	changed, err := config.Changed(o.cfg, cfg)
	if err != nil {
		return err
	}
	if waiting := slices.DeleteFunc(changed, reloadable); len(waiting) > 0 {
		klog.FromContext(ctx).Info("Some changes wait for a restart", "keys", waiting)
	}
	if err := o.setLogLevel(cfg.Log.Level); err != nil {
		return err
	}
	policy, err := signature.Load(cfg.Image.SignatureRules())
	if err != nil {
		return err
	}
	n.images.SetPolicy(policy)
	n.server.SetOptions(options(cfg))
	return nil
}

// reloadable reports whether a key takes effect by a reload.
func reloadable(key string) bool {
	switch key {
	case "image.signatures", "log.level", "runtime.default_capabilities", "runtime.default_env", "runtime.pids_limit", "runtime.seccomp_default",
		"runtime.device_ownership":
		return true
	}
	return false
}

func options(cfg *config.Config) cri.Options {
	return cri.Options{
		Capabilities:   cfg.Runtime.DefaultCapabilities,
		Env:            cfg.Runtime.DefaultEnv,
		PidsLimit:      cfg.Runtime.PidsLimit,
		SeccompDefault: cfg.Runtime.SeccompDefault,

		DeviceOwnership:    cfg.Runtime.DeviceOwnership,
		WithoutHostDevices: withoutHostDevices(cfg),
	}
}

// withoutHostDevices names the handlers whose privileged containers do not get
// the machine's devices.
func withoutHostDevices(cfg *config.Config) map[string]bool {
	without := map[string]bool{}
	for name, h := range cfg.Runtime.Handlers {
		without[name] = h.PrivilegedWithoutHostDevices
	}
	return without
}
