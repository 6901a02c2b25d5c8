package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// Remove ends a container and removes everything it had but its log, which is
// kubelet's. One that does not exist is a success. If a step fails the
// container stays, and Remove can be called again.
func (m *Manager) Remove(ctx context.Context, id string) error {
	c, err := m.Get(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Remove(ctx)
}

// Remove is Manager.Remove of this container. It may be repeated, which takes
// away what somebody who still had the container made after the first time.
func (c *Container) Remove(ctx context.Context) error {
	if err := c.Kill(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	defer unlock()
	// An operation that was under way may have brought it to life.
	if err := c.Kill(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	if err := c.teardown(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	again := c.removed
	c.removed = true
	c.m.forget(c.id)
	if !again {
		c.toldRemoved()
	}
	return nil
}

// teardown removes all there is of a container. It tries every step, derives
// everything from the id and the record, and may be repeated. Only the record
// waits for the other steps: as long as something is left, it must be found.
func (c *Container) teardown(ctx context.Context) error {
	if err := c.endLife(ctx); err != nil {
		return err
	}
	if err := c.removeRootfs(ctx); err != nil {
		return err
	}
	if err := linux.Discard(c.m.stateDir(c.id)); err != nil {
		return err
	}
	return linux.Discard(c.m.recordDir(c.id))
}

// endLife removes what a container has for the time it lives: all but its files.
func (c *Container) endLife(ctx context.Context) error {
	err := errors.Join(
		c.endExecs(),
		c.endCreate(ctx),
		c.deleteFromRuntime(ctx),
	)
	if err != nil {
		return err
	}
	return c.m.monitor.Forget(ctx, c.id)
}

// endCreate waits until no create of this container is under way in the
// monitor, which gives it up when the daemon that asked for it is gone.
func (c *Container) endCreate(ctx context.Context) error {
	s := c.Status()
	if s.State != Creating && !s.Renewing {
		return nil
	}
	if err := c.kill(ctx); err != nil {
		return err
	}
	if err := awaitEnd(ctx, s.Process); err != nil {
		return fmt.Errorf("wait for killed container %s: %w", c.id, err)
	}
	if err := c.m.monitor.Forget(ctx, c.id); err != nil && !errors.Is(err, monitor.ErrState) {
		return err
	}
	return nil // what lives nevertheless is in the cgroup, and ends with it
}

// awaitEnd waits until a process that was killed is gone, or a zombie.
func awaitEnd(ctx context.Context, p linux.Process) error {
	if p.PID <= 0 {
		return nil
	}
	pidfd, err := p.Open()
	if err != nil {
		return ignoreGone(err)
	}
	limit := teardownTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	ended, err := linux.PollPidfd(pidfd, limit)
	if err == nil && !ended {
		err = context.DeadlineExceeded
	}
	return errors.Join(err, pidfd.Close())
}

// deleteFromRuntime removes the OCI runtime's state and the cgroup.
func (c *Container) deleteFromRuntime(ctx context.Context) error {
	s := c.Status()
	runtime, err := c.driver()
	if err != nil {
		return errors.Join(c.removeCgroup(ctx, s), c.deleteFromAll(ctx))
	}
	var deleted error
	if s.State == Creating || s.Renewing || s.Reason == ReasonStartError || s.Hooks {
		deleted = runtime.Delete(ctx, c.id, c.logFile())
	}
	if err := c.removeCgroup(ctx, s); err != nil || s.Cgroup == "" && deleted != nil {
		return errors.Join(deleted, err)
	}
	// With the cgroup all processes are gone, so that a state the runtime itself
	// cannot read any more is of no use to anybody.
	return runtime.Forget(c.id)
}

// deleteFromAll is for a container whose runtime nobody knows, because its
// record is broken or the handler is not configured any more.
func (c *Container) deleteFromAll(ctx context.Context) error {
	var errs []error
	for _, runtime := range c.m.config.Handlers {
		errs = append(errs, runtime.Delete(ctx, c.id, c.logFile()))
	}
	return errors.Join(errs...)
}

func (c *Container) removeCgroup(ctx context.Context, s *Status) error {
	// It is empty as a rule: the container has exited, and its processes with it.
	if s.Cgroup == "" || c.m.config.Cgroups.RemoveEmpty(s.Cgroup) {
		return nil
	}
	if err := c.m.config.Cgroups.Kill(ctx, s.Cgroup); err != nil {
		return err
	}
	return c.m.config.Cgroups.Remove(s.Cgroup)
}

func (c *Container) removeRootfs(ctx context.Context) error {
	if c.m.config.Rootfs == nil {
		return nil
	}
	if err := c.m.config.Rootfs.UnmountRootfs(ctx, c.id, c.RootfsPath()); err != nil {
		return err
	}
	if err := linux.UnmountAll(c.Dir()); err != nil {
		return err
	}
	return c.m.config.Rootfs.RemoveRootfs(ctx, c.id)
}

// endExecs kills the processes of Exec that outlived the daemon that ran them,
// but for those that are to: they end with the container's cgroup.
func (c *Container) endExecs() error {
	dir := filepath.Join(c.Dir(), "exec")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), detachedSuffix) {
			continue
		}
		errs = append(errs, oci.KillExec(oci.PidFile(filepath.Join(dir, e.Name()))))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}
