package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// CheckpointDir is a private directory for the process images that a container
// is restored from, on disk because they are as large as its memory. It goes
// with the container.
func (c *Container) CheckpointDir() string { return filepath.Join(c.m.recordDir(c.id), "checkpoint") }

// ReplaceRootfs lets fill change what the container's root file system is made
// of, which is not mounted meanwhile. The container must be Creating.
func (c *Container) ReplaceRootfs(ctx context.Context, fill func(context.Context) error) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.expect(Creating); err != nil {
		return err
	}
	if err := c.m.config.Rootfs.UnmountRootfs(ctx, c.id, c.RootfsPath()); err != nil {
		return err
	}
	if err := fill(ctx); err != nil {
		return err
	}
	return c.mountRootfs(ctx)
}

// createRestored is create of a container that will be restored: nothing runs
// before it is started, because processes come to life running.
func (c *Container) createRestored(o CreateOptions) error {
	files := c.checkpointFiles(c.CheckpointDir(), *o.Restore)
	config := ghostLimit
	for fd, key := range o.Restore.Stdio {
		if key != "" {
			config += fmt.Sprintf("inherit-fd fd[%d]:%s\n", fd, key)
		}
	}
	if err := makeCheckpointDirs(files, config); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.unlockAndTell()
	return c.changeLocked(func(s *Status) {
		o.describe(s)
		s.Restore = &Restore{Checkpoint: *o.Restore, Stdin: o.Stdin, StdinOnce: o.StdinOnce}
	})
}

// Restore is what the start of a restored container needs.
type Restore struct {
	Checkpoint
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
}

// pending reports whether the container waits for its processes to be
// restored, so that it has none.
func (s *Status) pending() bool {
	return s.State == Created && s.Restore != nil && s.Process.PID == 0
}

// restore brings the container's processes back to life, in Start.
func (c *Container) restore(ctx context.Context, runtime *oci.Runtime) error {
	s := c.Status()
	files := c.checkpointFiles(c.CheckpointDir(), s.Restore.Checkpoint)
	request := c.createRequest(ctx, runtime, CreateOptions{Stdin: s.Restore.Stdin, StdinOnce: s.Restore.StdinOnce, SharedPID: s.SharedPID}, s.TTY)
	request.Argv = runtime.RestoreCommand(c.id, c.Dir(), request.PidFile, files)
	request.Env = oci.CRIUEnvironment(ctx, files.CRIUConfig)
	result, err := c.m.monitor.Create(ctx, request)
	if _, failed := errors.AsType[*monitor.CreateError](err); failed {
		return fmt.Errorf("restore container: %w%s", err, files.Explain("restore"))
	}
	if err != nil {
		return fmt.Errorf("restore container: %w", err)
	}
	c.mu.Lock()
	defer c.unlockAndTell()
	c.insistLocked(func(s *Status) { s.Process = result.Process })
	return nil
}

// recoverRestore finds out what became of a restore that the daemon's death
// interrupted: the monitor gives up what it does for a daemon that is gone.
func (c *Container) recoverRestore(ctx context.Context, state monitor.ContainerState, watched bool) error {
	if !watched {
		return c.startFailed(ctx, errors.New("the daemon was restarted meanwhile"))
	}
	return c.change(func(s *Status) {
		s.Process, s.Starting = state.Process, false
		if s.State == Created {
			s.State = Running
		}
	})
}
