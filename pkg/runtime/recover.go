package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// recoverLimit bounds the work on one container, so that one that hangs keeps
// no other from being recovered.
const recoverLimit = 20 * time.Second

// Load reads the records of all containers. Recover must follow; in between,
// events of the monitor find the containers they speak of.
func (m *Manager) Load(ctx context.Context) error {
	for _, dir := range []string{filepath.Join(m.config.Root, "containers"), filepath.Join(m.config.State, "containers")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		if err := linux.EmptyTrash(dir); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot empty the trash", "dir", dir)
		}
	}
	ids, err := linux.RecordIDs(filepath.Join(m.config.Root, "containers"))
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, id := range ids {
		status, ended := m.load(ctx, id)
		c := newContainer(m, status)
		if err := m.add(c); err != nil {
			return err
		}
		if ended {
			c.mu.Lock()
			c.noteLocked(Change{Kind: ChangeExited, Status: status})
			c.unlockAndTell()
		}
	}
	return nil
}

// load reads one record. What cannot be read stays visible, so that it can be
// removed, and is not believed. ended says that a reboot has ended it.
func (m *Manager) load(ctx context.Context, id string) (status *Status, ended bool) {
	log := klog.FromContext(ctx).WithValues("containerID", id)
	s, sameBoot, err := linux.LoadRecord[Status](m.recordPath(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The directory was made and nothing else.
		return &Status{Params: Params{ID: id}, State: Creating}, false
	case err != nil:
		log.Error(err, "The record of a container is broken: it can only be removed")
		broken := &Status{Params: Params{ID: id}, CreatedAt: time.Now()}
		broken.exit(exitCodeUnknown, ReasonRecordBroken, err.Error(), time.Now())
		broken.Cgroup = m.bundleCgroup(id)
		return broken, false
	case !sameBoot && s.State != Exited && s.State != Creating:
		s.Process = linux.Process{} // whoever has that pid now is somebody else
		s.exit(exitCodeUnknown, ReasonNodeReboot, "the machine was restarted", time.Now())
		// So that the next restart does not move the moment of its end.
		if err := linux.SaveRecord(m.recordPath(id), s, linux.SurviveProcess); err != nil {
			log.Error(err, "The end of a container cannot be saved")
		}
		return &s, true
	case !sameBoot:
		s.Process = linux.Process{}
	}
	return &s, false
}

// bundleCgroup reads a container's cgroup from its bundle, where the record
// does not tell it.
func (m *Manager) bundleCgroup(id string) string {
	b, err := os.ReadFile(filepath.Join(m.stateDir(id), "config.json"))
	if err != nil {
		return ""
	}
	var spec specs.Spec
	if json.Unmarshal(b, &spec) != nil || spec.Linux == nil {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// Recover makes the containers that Load found agree with the monitor and the
// kernel: it finishes what has ended, undoes what was being created, and
// removes what no record owns. It fails only if the monitor does not answer.
func (m *Manager) Recover(ctx context.Context, supervisor *monitor.Supervisor) error {
	m.monitor = supervisor
	states, err := supervisor.List(ctx)
	if err != nil {
		return fmt.Errorf("ask the monitor for its containers: %w", err)
	}
	watched := make(map[string]monitor.ContainerState, len(states))
	for _, s := range states {
		watched[s.ID] = s
	}
	m.addOrphans(watched)

	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, c := range m.all() {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, recoverLimit)
			defer cancel()
			state, ok := watched[c.id]
			err := guard.Call(klog.FromContext(ctx), "recovery", func() error { return c.recover(ctx, state, ok) })
			if err != nil {
				klog.FromContext(ctx).Error(err, "Cannot recover a container; its removal will be tried again", "containerID", c.id)
			}
		})
	}
	wait.Wait()
	return nil
}

// addOrphans takes in what the monitor or the state directory knows and no
// record does, as containers whose creation is undone next.
func (m *Manager) addOrphans(watched map[string]monitor.ContainerState) {
	orphan := func(id string) {
		// An error means that there is a record.
		_ = m.add(newContainer(m, &Status{Params: Params{ID: id, Cgroup: m.bundleCgroup(id)}, State: Creating}))
	}
	for id := range watched {
		orphan(id)
	}
	ids, _ := linux.RecordIDs(filepath.Join(m.config.State, "containers"))
	for _, id := range ids {
		orphan(id)
	}
}

func (m *Manager) all() []*Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Container, 0, len(m.containers))
	for _, c := range m.containers {
		list = append(list, c)
	}
	return list
}

func (c *Container) recover(ctx context.Context, state monitor.ContainerState, watched bool) error {
	// What is wrong with an exec keeps nothing else from being put right.
	return errors.Join(c.endExecs(), c.recoverState(ctx, state, watched))
}

func (c *Container) recoverState(ctx context.Context, state monitor.ContainerState, watched bool) error {
	s := c.Status()
	switch {
	case s.State == Creating:
		// The monitor may have finished what nobody was told of any more.
		known := *s
		known.Process = state.Process
		c.status.Store(&known)
		return c.m.Remove(ctx, c.id)
	case s.State == Exited && s.Renewing:
		known := *s
		known.Process = state.Process
		c.status.Store(&known)
		return c.undoRenew(ctx)
	case s.State == Exited:
		return nil
	case watched && state.Exit != nil:
		c.exitedWith(monitor.Event{ID: c.id, Process: state.Process, Exit: state.Exit})
		return nil
	case s.pending() && s.Starting:
		return c.recoverRestore(ctx, state, watched)
	case s.pending():
		return nil // nothing of it runs yet
	case !watched && !s.Process.Alive():
		c.finishLost()
		return nil
	case s.Starting:
		return c.recoverStart()
	case s.State == Running:
		return c.recoverFreezer()
	}
	return nil
}

// recoverStart finds out whether a start that the daemon's death interrupted
// came through: the FIFO goes when the process is let go, and the process
// executes something else then.
func (c *Container) recoverStart() error {
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	s := c.Status()
	_, err = os.Lstat(runtime.ExecFIFO(c.id))
	executable, exeErr := s.Process.Executable()
	started := errors.Is(err, fs.ErrNotExist) || exeErr == nil && s.InitExecutable != "" && executable != s.InitExecutable
	return c.change(func(s *Status) {
		s.Starting = false
		if started && s.State == Created {
			s.State = Running
		}
	})
}
