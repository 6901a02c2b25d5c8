package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/outbox"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/revision"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// Sandbox is one pod.
type Sandbox struct {
	manager *Manager
	// op holds one token while an operation works on the sandbox.
	op     chan struct{}
	status revision.Pointer[Status]
	// changes are those that OnChange has not been told of yet.
	changes outbox.Box[Change]

	// These belong to whoever holds op.
	removed  bool // by an operation that held op before
	released bool // the network and the pins are gone, debts aside

	// reviving: it has its key to itself, as if it were Ready. Manager.mu guards
	// it.
	reviving bool
}

// record is the body of record.json.
type record struct {
	ID            string          `json:"id"`
	Params        Params          `json:"params"`
	CreatedAt     time.Time       `json:"createdAt"`
	State         State           `json:"state"`
	Reason        string          `json:"reason,omitempty"`
	IPs           []netip.Addr    `json:"ips,omitempty"`
	NetworkResult json.RawMessage `json:"networkResult,omitempty"`
	Hosts         []string        `json:"hosts,omitempty"`
}

// newSandbox derives the paths in st.
func newSandbox(m *Manager, st Status) *Sandbox {
	dir := m.stateOf(st.ID)
	st.Files = Files{
		ResolvConf: filepath.Join(dir, resolvConfName),
		Hosts:      filepath.Join(dir, hostsName),
		Hostname:   filepath.Join(dir, hostnameName),
		Shm:        filepath.Join(dir, shmName),
	}
	if st.Params.HostIPC {
		st.Files.Shm = hostShm
	}
	if st.Broken == "" {
		for _, n := range ownNamespaces(st.Params) {
			path := filepath.Join(dir, n.pin)
			switch n {
			case userNamespace:
				st.Namespaces.User = path
			case netNamespace:
				st.Namespaces.Net = path
			case ipcNamespace:
				st.Namespaces.IPC = path
			case utsNamespace:
				st.Namespaces.UTS = path
			}
		}
	}
	s := &Sandbox{manager: m, op: make(chan struct{}, 1)}
	s.status.CountedBy(&m.changes)
	s.status.Store(&st)
	return s
}

// ID returns the sandbox's id.
func (s *Sandbox) ID() string { return s.status.Load().ID }

// Status returns a snapshot. It waits for nothing and does no I/O.
func (s *Sandbox) Status() Status { return *s.status.Load() }

// Snapshot is Status without the copy: another one has another address. The
// caller must not change it.
func (s *Sandbox) Snapshot() *Status { return s.status.Load() }

// update replaces the snapshot; the caller holds op.
func (s *Sandbox) update(change func(*Status)) {
	st := s.Status()
	change(&st)
	s.show(st)
}

// lock waits for its turn to operate on the sandbox, as long as ctx lasts.
func (s *Sandbox) lock(ctx context.Context) error {
	select {
	case s.op <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another operation on sandbox %s: %w", s.ID(), context.Cause(ctx))
	}
}

func (s *Sandbox) unlock() { <-s.op }

// enter is lock for a call from outside, which Close waits for.
func (s *Sandbox) enter(ctx context.Context) (leave func(), err error) {
	done, err := s.manager.begin()
	if err != nil {
		return nil, err
	}
	if err := s.lock(ctx); err != nil {
		done()
		return nil, err
	}
	return func() { s.unlock(); done() }, nil
}

// save writes st as the record.
func (m *Manager) save(st Status) error {
	return linux.SaveRecord(m.recordPath(st.ID), record{
		ID:            st.ID,
		Params:        st.Params,
		CreatedAt:     st.CreatedAt,
		State:         st.State,
		Reason:        st.Reason,
		IPs:           st.IPs,
		NetworkResult: st.NetworkResult,
		Hosts:         st.Hosts,
	}, linux.SurviveProcess)
}

// createLocked records the sandbox and runs the stages; whatever it leaves,
// abandonLocked undoes. One record, before all effects, is enough: where each
// effect is follows from the id, and the network keeps an intent of its own.
func (s *Sandbox) createLocked(ctx context.Context, sysctls []sysctl) error {
	st := s.Status()
	if err := os.Mkdir(s.manager.recordDir(st.ID), 0o700); err != nil {
		return err
	}
	if err := s.manager.save(st); err != nil {
		return err
	}
	return s.buildLocked(ctx, sysctls)
}

// buildLocked runs the stages.
func (s *Sandbox) buildLocked(ctx context.Context, sysctls []sysctl) error {
	st := s.Status()
	dir := s.manager.stateOf(st.ID)
	name, err := hostname(st.Params)
	if err != nil {
		return err
	}
	var watch stopwatch
	for _, stage := range []struct {
		name Stage
		run  func(ctx context.Context) error
	}{
		{StageNamespaces, func(context.Context) error {
			return makeNamespaces(dir, st.Params, name, sysctls, s.manager.config.Holder)
		}},
		{StageFiles, func(context.Context) error { return s.makeFiles(dir, name) }},
		{StageNetwork, func(ctx context.Context) error { return s.attach(ctx, dir, name) }},
	} {
		watch.next(stage.name)
		err := context.Cause(ctx)
		if err == nil {
			err = stage.run(progress.Enter(ctx, string(stage.name)))
		}
		if err != nil {
			watch.stop()
			return &StageError{ID: st.ID, Stage: stage.name, Times: watch.times, Err: err}
		}
	}
	watch.stop()
	if log := logger(ctx, st.ID).V(4); log.Enabled() {
		log.Info("Built sandbox", "stages", fmt.Sprint(watch.times))
	}
	return nil
}

func makeNamespaces(dir string, p Params, hostname string, sysctls []sysctl, holder []string) error {
	if err := mountState(dir, p); err != nil {
		return err
	}
	return pinNamespaces(nsSetup{
		dir: dir, namespaces: ownNamespaces(p), hostname: hostname, sysctls: sysctls,
		userNS: p.UserNS, holder: holder,
	})
}

func (s *Sandbox) makeFiles(dir, hostname string) error {
	p := s.Status().Params
	if err := s.manager.writeStaticFiles(dir, p, hostname); err != nil {
		return err
	}
	if p.HostIPC {
		return nil
	}
	return makeShm(dir, p.UserNS)
}

// attach connects the pod and writes the hosts file, which has the addresses.
func (s *Sandbox) attach(ctx context.Context, dir, hostname string) error {
	st := s.Status()
	p := st.Params
	if p.HostNetwork || p.NoNetwork {
		return s.manager.writeHosts(dir, &st, hostname)
	}
	result, err := s.manager.config.Network.Attach(ctx, network.Attachment{
		ID:           st.ID,
		Namespace:    p.Namespace,
		Name:         p.Name,
		UID:          p.UID,
		NetNS:        st.Namespaces.Net,
		PortMappings: wantedPorts(p.PortMappings),
	})
	if err != nil {
		return fmt.Errorf("attach network: %w", err)
	}
	s.update(func(st *Status) { st.IPs, st.NetworkResult = result.IPs, result.Raw })
	st = s.Status()
	return s.manager.writeHosts(dir, &st, hostname)
}

// abandonLocked takes down what a failed Create left, out of sight. Where that
// fails, the sandbox comes into sight, so that Remove can go on.
func (s *Sandbox) abandonLocked(ctx context.Context, cause error) error {
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(progress.Enter(ctx, "undo")), s.manager.config.TeardownTimeout)
	defer cancel()
	cleanup = progress.Listen(cleanup, nil)
	err := s.releaseLocked(cleanup, networkFirst)
	if err == nil {
		err = s.deleteLocked()
	}
	if err == nil {
		return cause
	}
	s.update(func(st *Status) { st.State, st.Reason = NotReady, ReasonCreateFailed })
	err = fmt.Errorf("take down sandbox %s: %w", s.ID(), err)
	return errors.Join(cause, err, s.saveStopped())
}

// MarkReady makes a created sandbox Ready: it is listed from now on and a
// restart of the daemon keeps it. It may be repeated. It is
// errdefs.ErrFailedPrecondition if the sandbox has been stopped meanwhile.
func (s *Sandbox) MarkReady(ctx context.Context) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	switch st := s.Status(); {
	case s.removed || st.State == NotReady:
		return fmt.Errorf("make sandbox %s ready: it has been stopped: %w", st.ID, errdefs.ErrFailedPrecondition)
	case st.State == Ready:
		return nil
	}
	ready := s.Status()
	ready.State = Ready
	if err := s.manager.save(ready); err != nil {
		return fmt.Errorf("make sandbox %s ready: %w", ready.ID, err)
	}
	s.show(ready)
	return nil
}

// stopLocked makes the sandbox NotReady and takes down all but its files. What
// is to be comes first: after a crash at any point Recover goes on with it.
func (s *Sandbox) stopLocked(ctx context.Context) error {
	if s.removed || s.released {
		return nil
	}
	s.update(func(st *Status) { st.State = NotReady })
	order := networkFirst
	if err := s.saveStopped(); err != nil {
		// A full disk must not keep a pod from being stopped.
		logger(ctx, s.ID()).Error(err, "Stopping without a record of it")
		order = pinsFirst
	}
	return s.releaseLocked(ctx, order)
}

// saveStopped records that the sandbox is NotReady. The addresses are not in
// the record any more, though the pod has them until the teardown is done. A
// broken record stays as evidence; it means NotReady anyway.
func (s *Sandbox) saveStopped() error {
	st := s.Status()
	if st.Broken != "" {
		return nil
	}
	st.IPs, st.NetworkResult = nil, nil
	return s.manager.save(st)
}

// releaseLocked runs the teardown and takes note of what it could not do.
func (s *Sandbox) releaseLocked(ctx context.Context, order teardownOrder) error {
	debt, err := s.manager.tearDown(ctx, s.ID(), order)
	if err != nil {
		return err
	}
	if debt != nil {
		logger(ctx, s.ID()).Error(debt, "Network stays to be released")
		s.manager.setOwed(s.ID(), true)
	}
	s.released = true
	s.update(func(st *Status) {
		st.IPs, st.NetworkResult, st.Debt = nil, nil, ""
		if debt != nil {
			st.Debt = debt.Error()
		}
	})
	return nil
}

// removeLocked stops the sandbox and deletes its files, the record last.
func (s *Sandbox) removeLocked(ctx context.Context) error {
	if s.removed {
		return nil
	}
	if err := s.stopLocked(ctx); err != nil {
		return err
	}
	progress.Enter(ctx, string(StageFiles))
	return s.deleteLocked()
}

// deleteLocked deletes the files of a sandbox that is released.
func (s *Sandbox) deleteLocked() error {
	if err := s.manager.deleteFiles(s.ID()); err != nil {
		return err
	}
	s.removed = true
	s.manager.forget(s)
	if st := s.Status(); st.State != Creating {
		s.tell(Change{Kind: ChangeRemoved, Status: st})
	}
	return nil
}

func compareIDs(a, b *Sandbox) int { return strings.Compare(a.ID(), b.ID()) }
