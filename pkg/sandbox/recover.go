package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// recoverParallel is few: most of a recovery waits for CNI, whose plugins
// queue for the same kernel lock anyway.
const recoverParallel = 4

// Recover makes memory, disk and kernel agree, and opens the manager for
// operations. It derives what it can from the kernel and asks records only
// what should be. What is wrong with one sandbox is logged and shows in its
// Status; it never is an error here. It may be called once.
func (m *Manager) Recover(ctx context.Context) error {
	m.mu.Lock()
	if m.phase != phaseNew {
		m.mu.Unlock()
		return fmt.Errorf("recover sandboxes a second time: %w", errdefs.ErrFailedPrecondition)
	}
	m.phase = phaseRecovering
	m.mu.Unlock()

	recorded, stateful, err := m.prepareDirs(ctx)
	if err != nil {
		m.setPhase(phaseNew) // nothing has happened
		return err
	}
	m.eachBounded(ctx, recorded, m.recoverOne)
	orphans := slices.DeleteFunc(stateful, func(id string) bool { return slices.Contains(recorded, id) })
	m.eachBounded(ctx, orphans, m.removeOrphan)
	m.sortByAge()

	if err := m.collectNetworks(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Networks of former sandboxes stay to be released")
	}
	m.setPhase(phaseOpen)
	return nil
}

// setPhase ends the recovery, unless Close has.
func (m *Manager) setPhase(p phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == phaseRecovering {
		m.phase = p
	}
}

// prepareDirs makes the two directories and lists the sandboxes in each.
func (m *Manager) prepareDirs(ctx context.Context) (recorded, stateful []string, err error) {
	for _, dir := range []string{m.rootDir(), m.stateDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, err
		}
		if err := linux.EmptyTrash(dir); err != nil {
			klog.FromContext(ctx).Error(err, "Deleted sandboxes stay on disk", "directory", dir)
		}
	}
	if recorded, err = sandboxIDs(m.rootDir()); err != nil {
		return nil, nil, err
	}
	stateful, err = sandboxIDs(m.stateDir())
	return recorded, stateful, err
}

// sandboxIDs lists what is ours in dir. A directory whose name we would not
// have given is somebody else's, and is left alone.
func sandboxIDs(dir string) ([]string, error) {
	ids, err := linux.RecordIDs(dir)
	return slices.DeleteFunc(ids, func(id string) bool { return !validID(id) }), err
}

// eachBounded runs work for each id, a few at a time and each within its own
// time.
func (m *Manager) eachBounded(ctx context.Context, ids []string, work func(context.Context, string)) {
	var group errgroup.Group
	group.SetLimit(recoverParallel)
	for _, id := range ids {
		group.Go(func() error {
			bounded, cancel := context.WithTimeout(ctx, m.config.TeardownTimeout)
			defer cancel()
			return guard.Call(logger(ctx, id), "recovery of a sandbox", func() error {
				work(bounded, id)
				return nil
			})
		})
	}
	_ = group.Wait() // work returns no errors, and panics are in the log
}

// recoverOne decides what one record means now.
func (m *Manager) recoverOne(ctx context.Context, id string) {
	log := logger(ctx, id)
	m.removeTemporaries(ctx, id)
	rec, sameBoot, err := linux.LoadRecord[record](m.recordPath(id))
	if err == nil && rec.ID != id {
		err = fmt.Errorf("%w: it is of sandbox %.200q", linux.ErrBroken, rec.ID)
	}
	if err == nil && rec.State != Creating && rec.State != Ready && rec.State != NotReady {
		err = fmt.Errorf("%w: state %.50q is not known", linux.ErrBroken, rec.State)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// The crash came before the record, and nothing comes before it.
		m.removeOrphan(ctx, id)
		return
	}
	if err != nil {
		log.Error(err, "Sandbox has a broken record; it is kept for removal")
		m.adopt(brokenStatus(id, m.recordDir(id), err))
		return
	}
	s := m.adopt(Status{
		ID: id, Params: rec.Params, CreatedAt: rec.CreatedAt, State: rec.State, Reason: rec.Reason,
		IPs: rec.IPs, NetworkResult: rec.NetworkResult, Hosts: rec.Hosts,
	})
	s.op <- struct{}{} // nobody else has it yet
	defer s.unlock()
	if err := s.recoverLocked(ctx, sameBoot); err != nil {
		log.Error(err, "Sandbox could not be recovered; it is kept for removal")
	}
}

// adopt makes a recovered sandbox known.
func (m *Manager) adopt(st Status) *Sandbox {
	s := newSandbox(m, st)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addLocked(s)
	return s
}

// brokenStatus is what can be said of a sandbox without a record. Its age is
// that of its directory.
func brokenStatus(id, dir string, cause error) Status {
	st := Status{ID: id, State: NotReady, Reason: ReasonBrokenRecord, Broken: cause.Error(), CreatedAt: time.Unix(0, 0)}
	if info, err := os.Stat(dir); err == nil {
		st.CreatedAt = info.ModTime()
	}
	return st
}

// recoverLocked brings a sandbox with a good record to the state that the
// kernel allows.
func (s *Sandbox) recoverLocked(ctx context.Context, sameBoot bool) error {
	st := s.Status()
	if st.State == Creating {
		if err := s.abandonLocked(ctx, nil); err != nil {
			return err
		}
		logger(ctx, st.ID).Info("Undid a sandbox whose creation was interrupted")
		return nil
	}
	if st.State == Ready && sameBoot {
		whole, err := intact(s.manager.stateOf(st.ID), st.Params)
		if err != nil {
			return s.giveUp(err, ReasonNamespacesGone)
		}
		if whole {
			return s.restoreFiles()
		}
	}
	if st.State == Ready {
		st.Reason = ReasonNamespacesGone
		if !sameBoot {
			st.Reason = ReasonReboot
		}
	}
	s.update(func(now *Status) { now.State, now.Reason = NotReady, st.Reason })
	if err := s.stopLocked(ctx); err != nil || sameBoot {
		return err
	}
	// What is in the state directory is of another boot, if it is there.
	if err := discard(s.manager.stateOf(st.ID)); err != nil {
		return err
	}
	return os.Mkdir(s.manager.stateOf(st.ID), 0o700)
}

// giveUp leaves the teardown to Stop and Remove.
func (s *Sandbox) giveUp(err error, reason string) error {
	s.update(func(st *Status) { st.State, st.Reason = NotReady, reason })
	return err
}

// restoreFiles writes those of the pod's files that somebody has deleted; the
// pins beside them cannot be.
func (s *Sandbox) restoreFiles() error {
	st := s.Status()
	missing := false
	for _, path := range []string{st.Files.ResolvConf, st.Files.Hosts, st.Files.Hostname} {
		_, err := os.Lstat(path)
		missing = missing || errors.Is(err, fs.ErrNotExist)
	}
	if !missing {
		return nil
	}
	name, err := hostname(st.Params)
	if err != nil {
		return err
	}
	dir := s.manager.stateOf(st.ID)
	return errors.Join(s.manager.writeStaticFiles(dir, st.Params, name), s.manager.writeHosts(dir, &st, name))
}

// removeOrphan takes down what no record speaks of.
func (m *Manager) removeOrphan(ctx context.Context, id string) {
	log := logger(ctx, id)
	debt, err := m.tearDown(ctx, id, networkFirst)
	if err == nil {
		err = m.deleteFiles(id)
	}
	if debt != nil {
		m.setOwed(id, true)
	}
	if err = errors.Join(err, debt); err != nil {
		log.Error(err, "Remains of a sandbox without a record stay")
		return
	}
	log.Info("Removed remains of a sandbox without a record")
}

// removeTemporaries deletes what an interrupted save left beside the record.
func (m *Manager) removeTemporaries(ctx context.Context, id string) {
	entries, err := os.ReadDir(m.recordDir(id))
	for _, e := range entries {
		if linux.IsTemporary(e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(m.recordDir(id), e.Name())))
		}
	}
	if err != nil {
		logger(ctx, id).Error(err, "Temporary files stay")
	}
}

// sortByAge puts the sandboxes of each key in the order Lookup wants.
func (m *Manager) sortByAge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, all := range m.byKey {
		slices.SortStableFunc(all, func(a, b *Sandbox) int {
			return a.Status().CreatedAt.Compare(b.Status().CreatedAt)
		})
	}
}

// collectNetworks releases what the network holds for no sandbox. A sandbox
// keeps what it has as long as its network namespace is pinned: a broken or
// half stopped one may have containers that use its addresses.
func (m *Manager) collectNetworks(ctx context.Context) error {
	var valid []string
	m.mu.RLock()
	ids := make([]string, 0, len(m.byID))
	for id := range m.byID {
		ids = append(ids, id)
	}
	m.mu.RUnlock()
	for _, id := range ids {
		ok, err := pinned(filepath.Join(m.stateOf(id), netNamespace.pin))
		if err != nil || ok {
			valid = append(valid, id)
		}
	}
	slices.Sort(valid)
	bounded, cancel := context.WithTimeout(ctx, m.config.TeardownTimeout)
	defer cancel()
	return m.config.Network.GC(bounded, valid)
}
