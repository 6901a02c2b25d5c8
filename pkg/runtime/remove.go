package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
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
	if err := c.Kill(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	defer unlock()
	if err := c.teardown(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	m.forget(id)
	return nil
}

// teardown removes all there is of a container. It tries every step, derives
// everything from the id and the record, and may be repeated. Only the record
// waits for the other steps: as long as something is left, it must be found.
func (c *Container) teardown(ctx context.Context) error {
	s := c.Status()
	if s.State == Creating {
		// A create under way in the monitor ends here.
		if err := c.kill(ctx); err != nil {
			return err
		}
	}
	err := errors.Join(
		c.endExecs(),
		c.m.monitor.Forget(ctx, c.id),
		c.deleteFromRuntime(ctx),
		c.removeRootfs(ctx),
	)
	if err != nil {
		return err
	}
	return errors.Join(linux.Discard(c.m.stateDir(c.id)), linux.Discard(c.m.recordDir(c.id)))
}

// deleteFromRuntime removes the OCI runtime's state and the cgroup.
func (c *Container) deleteFromRuntime(ctx context.Context) error {
	s := c.Status()
	runtime, err := c.driver()
	if err != nil {
		// The handler is not configured any more; what it kept is below a
		// directory of the state, and the cgroup is known.
		return c.removeCgroup(ctx, s)
	}
	if s.State == Creating || s.State == Exited && s.Reason == ReasonStartError {
		return errors.Join(runtime.Delete(ctx, c.id, c.logFile()), c.removeCgroup(ctx, s))
	}
	if err := c.removeCgroup(ctx, s); err != nil {
		return err
	}
	return runtime.Forget(c.id)
}

func (c *Container) removeCgroup(ctx context.Context, s *Status) error {
	if s.Cgroup == "" || !c.m.config.Cgroups.Exists(s.Cgroup) {
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

// endExecs kills the processes of Exec that outlived the daemon that ran them.
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
		errs = append(errs, oci.KillExec(oci.PidFile(filepath.Join(dir, e.Name()))))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}
