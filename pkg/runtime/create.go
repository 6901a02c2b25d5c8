package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// teardownTimeout bounds the undoing of a step whose own time may be over.
const teardownTimeout = 30 * time.Second

// Prepare writes the record of a new container and mounts its root file
// system. The container is Creating; Create goes on, Remove undoes it. On an
// error nothing is left.
func (m *Manager) Prepare(ctx context.Context, p Params) (*Container, error) {
	if _, err := m.Handler(p.Handler); err != nil {
		return nil, err
	}
	c := newContainer(m, &Status{Params: p, State: Creating, CreatedAt: time.Now()})
	unlock, err := c.lock(ctx) // before anybody can find it to remove it
	if err != nil {
		return nil, err
	}
	if err := m.add(c); err != nil {
		return nil, err
	}
	err = func() error {
		defer unlock() // whatever happens: Remove needs it
		return c.prepare(ctx)
	}()
	if err != nil {
		return nil, errors.Join(err, c.abandon(ctx))
	}
	return c, nil
}

func (c *Container) prepare(ctx context.Context) error {
	if err := c.m.makeDirs(c.id, c.Status().UserNS); err != nil {
		return err
	}
	if err := c.change(func(*Status) {}); err != nil { // the intent, before any effect
		return err
	}
	imageID := c.Status().ImageID
	if imageID == "" {
		return nil
	}
	if err := c.m.config.Rootfs.PrepareRootfs(ctx, c.id, imageID); err != nil {
		return fmt.Errorf("prepare root file system: %w", err)
	}
	return c.mountRootfs(ctx)
}

func (c *Container) mountRootfs(ctx context.Context) error {
	if err := c.m.config.Rootfs.MountRootfs(ctx, c.id, c.RootfsPath(), c.rootfsOptions()); err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	return nil
}

func (c *Container) rootfsOptions() RootfsOptions {
	s := c.Status()
	return RootfsOptions{UserNS: s.UserNS, Label: s.MountLabel, Durable: s.Owner != ""}
}

// abandon undoes a create, whatever became of the caller.
func (c *Container) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	return c.Remove(ctx)
}

// CreateOptions complete what Prepare began.
type CreateOptions struct {
	Spec *specs.Spec
	// StopSignal by name, such as SIGTERM; empty means that.
	StopSignal       string
	Stdin, StdinOnce bool
	// SharedPID: other processes of the pod live in the pid namespace, so that
	// it does not end with this container; what is left of the container then
	// is killed through its cgroup.
	SharedPID bool
	// Cgroup replaces Params.Cgroup where it is not empty.
	Cgroup string
	// Request replaces Params.Request where the caller knows more by now.
	Request []byte
	// Restore makes the container of a checkpoint, whose images are in
	// CheckpointDir. Its processes come to life when it is started.
	Restore *Checkpoint
}

// Create makes the container's namespaces and its first process, which waits
// to be started. On an error the container is removed.
func (c *Container) Create(ctx context.Context, o CreateOptions) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return errors.Join(err, c.abandon(ctx))
	}
	err = func() error {
		defer unlock()
		return c.create(ctx, o)
	}()
	if err != nil {
		return errors.Join(err, c.abandon(ctx))
	}
	return nil
}

func (c *Container) create(ctx context.Context, o CreateOptions) error {
	if err := c.expect(Creating); err != nil {
		return err
	}
	if c.removed { // with its sandbox, most likely
		return fmt.Errorf("container %s has been removed: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	if o.Cgroup != "" {
		if err := c.change(func(s *Status) { s.Cgroup = o.Cgroup }); err != nil {
			return err
		}
	}
	if err := c.writeBundle(o.Spec); err != nil {
		return err
	}
	if o.Restore != nil {
		return c.createRestored(o)
	}
	ctx, end := progress.Start(ctx, "monitor create", "oci.runtime", runtime.Handler(), "container.id", c.id)
	result, err := c.m.monitor.Create(ctx, c.createRequest(ctx, runtime, o, o.Spec.Process.Terminal))
	end(err)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	return c.created(result.Process, o)
}

// created is the commit point of a create.
func (c *Container) created(process linux.Process, o CreateOptions) error {
	executable, err := process.Executable()
	if err != nil {
		executable = "" // it has died; its exit is on the way
	}
	c.mu.Lock()
	defer c.unlockAndTell()
	err = c.changeLocked(func(s *Status) {
		if s.Renewing {
			s.renew()
		}
		o.describe(s)
		s.Process, s.InitExecutable = process, executable
	})
	if early := c.early; err == nil && early != nil && isOf(*early, process) {
		c.exitedLocked(*early) // it did not live to see this
	}
	return err
}

// describe puts into a status what it has of the options.
func (o CreateOptions) describe(s *Status) {
	s.State = Created
	s.StopSignal, s.SharedPID = o.StopSignal, o.SharedPID
	s.Stdin = o.Stdin
	s.TTY, s.Hooks = o.Spec.Process.Terminal, o.Spec.Hooks != nil
	if o.Request != nil {
		s.Request = o.Request
	}
}

// writeBundle writes the OCI bundle and the directory of the log.
func (c *Container) writeBundle(spec *specs.Spec) error {
	document, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	if err := linux.WriteFileAtomic(filepath.Join(c.Dir(), "config.json"), document, 0o600, linux.SurviveProcess); err != nil {
		return err
	}
	if logPath := c.Status().LogPath; logPath != "" {
		if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
			return fmt.Errorf("create directory of the log: %w", err)
		}
	}
	return nil
}

func (c *Container) createRequest(ctx context.Context, runtime *oci.Runtime, o CreateOptions, tty bool) monitor.CreateRequest {
	s := c.Status()
	pidFile := filepath.Join(c.Dir(), "pid")
	return monitor.CreateRequest{
		ID:                c.id,
		Dir:               c.Dir(),
		Argv:              runtime.CreateCommand(c.id, c.Dir(), pidFile, c.logFile()),
		PidFile:           pidFile,
		Env:               oci.Environment(ctx),
		HideUnifiedCgroup: runtime.HideUnified(),
		Stdin:             o.Stdin,
		StdinOnce:         o.StdinOnce,
		TTY:               tty,
		LogPath:           s.LogPath,
		MaxLineSize:       c.m.config.MaxLogLine,
		RuntimeLog:        c.logFile(),
		KillCgroupOnExit:  o.SharedPID,
		Timeout:           c.m.config.CreateTimeout,
	}
}

// InitProcess is the process of the spec the container was created with, which
// execs inherit from. It is read once; the caller must not change it.
func (c *Container) InitProcess() (*specs.Process, error) {
	if p := c.process.Load(); p != nil {
		return p, nil
	}
	spec, err := c.Spec()
	if err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("spec of container %s has no process", c.id)
	}
	c.process.Store(spec.Process)
	return spec.Process, nil
}

// Spec reads back the OCI spec the container was created with.
func (c *Container) Spec() (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(c.Dir(), "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read spec of container %s: %w", c.id, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("read spec of container %s: %w", c.id, err)
	}
	return &spec, nil
}
