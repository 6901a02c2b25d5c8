package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/progress"
)

// Revive makes a sandbox that is NotReady Ready again: the same id and Params,
// with new namespaces, a new place in the network and new files. One that is
// Ready is a success. On an error the sandbox is NotReady as before, and has
// nothing.
//
// The record says NotReady until all is there, so that what a crash leaves is
// taken down by Recover as that of any sandbox that was being stopped.
//
// It is errdefs.ErrAlreadyExists if another sandbox of the same key is Creating
// or Ready.
func (m *Manager) Revive(ctx context.Context, id string) error {
	s, err := m.Get(id)
	if err != nil {
		return err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	switch st := s.Status(); {
	case s.removed:
		return fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	case st.State == Ready:
		return nil
	case st.State != NotReady || st.Broken != "":
		return fmt.Errorf("revive sandbox %s: it is being created, or its record is broken: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err := s.reviveLocked(ctx); err != nil {
		return fmt.Errorf("revive sandbox %s: %w", id, err)
	}
	return nil
}

func (s *Sandbox) reviveLocked(ctx context.Context) error {
	m := s.manager
	sysctls, err := m.sysctls(s.Status().Params)
	if err != nil {
		return err
	}
	// 1. What the last life has left, and what it owes.
	if err := s.stopLocked(ctx); err != nil {
		return err
	}
	if s.Status().Debt != "" {
		if err := m.detach(ctx, s.ID(), ""); err != nil {
			return err
		}
		s.update(func(st *Status) { st.Debt = "" })
		m.setOwed(s.ID(), false)
	}
	if err := discard(m.stateOf(s.ID())); err != nil {
		return err
	}
	// 2. Nobody else is this pod.
	if err := m.claim(s); err != nil {
		return err
	}
	defer m.unclaim(s)
	// 3. The stages of Create.
	s.released = false
	err = s.buildLocked(ctx, sysctls)
	if err == nil {
		ready := s.Status()
		ready.State, ready.Reason = Ready, ""
		if err = m.save(ready); err == nil {
			s.show(ready)
			return nil
		}
	}
	// 4. Or nothing at all.
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(progress.Enter(ctx, "undo")), m.config.TeardownTimeout)
	defer cancel()
	cleanup = progress.Listen(cleanup, nil)
	return errors.Join(err, s.saveStopped(), s.releaseLocked(cleanup, networkFirst))
}

// claim gives a sandbox its key, unless another one has it.
func (m *Manager) claim(s *Sandbox) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.byKey[s.Status().Params.Key] {
		if other != s && (other.Status().State != NotReady || other.reviving) {
			return fmt.Errorf("sandbox %s is of the same pod: %w", other.ID(), errdefs.ErrAlreadyExists)
		}
	}
	s.reviving = true
	return nil
}

func (m *Manager) unclaim(s *Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.reviving = false
}

// SetHosts replaces the lines of the pod's hosts file that come after its own
// and those of Params.ExtraHosts: "ADDRESS NAME...", where the address may be
// HostGateway. Containers that have the file mounted see them at once: it stays
// the same file. They are kept with the sandbox, also while it is NotReady.
func (s *Sandbox) SetHosts(ctx context.Context, extra []string) error {
	if err := validateHosts("hosts", extra); err != nil {
		return err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	next := s.Status()
	if s.removed || next.Broken != "" {
		return fmt.Errorf("sandbox %s: %w", next.ID, errdefs.ErrNotFound)
	}
	next.Hosts = slices.Clone(extra)
	if err := s.saveAs(next); err != nil {
		return fmt.Errorf("set hosts of sandbox %s: %w", next.ID, err)
	}
	s.status.Store(&next)
	if next.State == NotReady {
		return nil // it gets them when it is revived
	}
	if err := s.manager.rewriteHosts(&next); err != nil {
		return fmt.Errorf("set hosts of sandbox %s: %w", next.ID, err)
	}
	return nil
}

// rewriteHosts brings the hosts file up to date.
func (m *Manager) rewriteHosts(st *Status) error {
	name, err := hostname(st.Params)
	if err != nil {
		return err
	}
	hosts, err := m.hosts(st, name)
	if err != nil {
		return err
	}
	return rewriteShared(filepath.Join(m.stateOf(st.ID), hostsName), hosts)
}
