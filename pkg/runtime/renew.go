package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/progress"
)

// Renew makes a container that has exited Created again, with the same id, the
// same root file system and everything in it, and the same log, which goes on.
// What its last end was is forgotten, Exited is a new channel, and
// Status.Restarts is one more. On an error the container is Exited as before.
//
// The options are those of Create; Restore must be nil.
//
//	          endLife            Renewing          create
//	Exited ────────────► Exited ──────────► Exited ──────► Created
//	                        ▲                  │
//	                        └──────────────────┘ error, crash: endLife
//
// What is left of the last life goes before anything is noted, and may be taken
// away by the next attempt as well. From the note on, whatever Create has made
// is found by the id, and undone by Recover if the daemon has died.
func (c *Container) Renew(ctx context.Context, o CreateOptions) error {
	if o.Restore != nil {
		return fmt.Errorf("renew container %s of a checkpoint: %w", c.id, errdefs.ErrNotImplemented)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.renewable(); err != nil {
		return err
	}
	if err := c.endLife(ctx); err != nil {
		return fmt.Errorf("renew container %s: end what is left of it: %w", c.id, err)
	}
	if err := c.noteRenewal(o); err != nil {
		return err
	}
	if err := c.renew(ctx, o); err != nil {
		return errors.Join(fmt.Errorf("renew container %s: %w", c.id, err), c.undoRenew(ctx))
	}
	return nil
}

// renewable refuses a container that has not exited, or whose record is not to
// be believed. The caller holds its lock.
func (c *Container) renewable() error {
	if err := c.expect(Exited); err != nil {
		return err
	}
	if c.removed || c.Status().Reason == ReasonRecordBroken {
		return fmt.Errorf("container %s has been removed, or its record is broken: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	_, err := c.driver()
	return err
}

func (c *Container) noteRenewal(o CreateOptions) error {
	c.mu.Lock()
	defer c.unlockAndTell()
	c.early = nil
	return c.changeLocked(func(s *Status) {
		s.Renewing = true
		if o.Cgroup != "" {
			s.Cgroup = o.Cgroup
		}
	})
}

func (c *Container) renew(ctx context.Context, o CreateOptions) error {
	if err := c.mountAgain(ctx); err != nil {
		return err
	}
	if err := c.writeBundle(o.Spec); err != nil {
		return err
	}
	// What the OCI runtime said of earlier lives explains nothing of this one.
	if err := os.Remove(c.logFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c.process.Store(nil)
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	ctx, end := progress.Start(ctx, "monitor create", "oci.runtime", runtime.Handler(), "container.id", c.id)
	result, err := c.m.monitor.Create(ctx, c.createRequest(ctx, runtime, o, o.Spec.Process.Terminal))
	end(err)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	return c.created(result.Process, o)
}

// undoRenew leaves the container Exited, as it was, whatever became of the
// caller. If that fails, Renew, Remove and Recover try it again.
func (c *Container) undoRenew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(progress.Enter(ctx, "undo")), teardownTimeout)
	defer cancel()
	if err := c.endLife(ctx); err != nil {
		return fmt.Errorf("undo renewal of container %s: %w", c.id, err)
	}
	c.mu.Lock()
	defer c.unlockAndTell()
	c.early = nil
	c.insistLocked(func(s *Status) { s.Renewing = false })
	return nil
}

// renew forgets the last life. It begins the next one.
func (s *Status) renew() {
	s.StartedAt, s.FinishedAt = time.Time{}, time.Time{}
	s.ExitCode, s.Reason, s.Message = 0, "", ""
	s.Starting, s.Paused, s.Renewing, s.Restore = false, false, false, nil
	s.Restarts++
	s.life = newLife()
}

// MountRootfs makes sure that the root file system of a container that has
// exited is mounted at RootfsPath, which it is not after a reboot.
func (c *Container) MountRootfs(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if c.Status().State != Exited {
		return nil // it has been mounted since it was made
	}
	if err := c.renewable(); err != nil {
		return err
	}
	return c.mountAgain(ctx)
}

// mountAgain brings back the directories and the root file system, as far as
// they are gone. The caller holds the container's lock.
func (c *Container) mountAgain(ctx context.Context) error {
	s := c.Status()
	if err := c.m.makeDirs(c.id, s.UserNS); err != nil || s.ImageID == "" {
		return err
	}
	return c.mountRootfs(ctx)
}
