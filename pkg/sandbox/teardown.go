package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// tearDown is the one way in which what a sandbox has is taken away, however
// much of it there is. It leaves only the record. debt is a network that could
// not be released; with err not nil it has to be called again.
func (m *Manager) tearDown(ctx context.Context, id string, order teardownOrder) (debt, err error) {
	dir := m.stateOf(id)
	if order == pinsFirst {
		if err := unmountState(dir); err != nil {
			return nil, err
		}
	}
	netns := filepath.Join(dir, netNamespace.pin)
	if ok, err := pinned(netns); err != nil || !ok {
		// Without a pin there is nothing at the path that a plugin could
		// enter; what was in the namespace went with it.
		netns = ""
	}
	if debt = m.detach(progress.Enter(ctx, string(StageNetwork)), id, netns); debt != nil && ctx.Err() != nil {
		return nil, debt
	}
	progress.Enter(ctx, string(StageNamespaces))
	return debt, unmountState(dir)
}

// teardownOrder says what goes first.
type teardownOrder int

const (
	// networkFirst lets CNI plugins clean up in the namespace.
	networkFirst teardownOrder = iota
	// pinsFirst is for when the record could not be changed, as on a full
	// disk: pins that are gone say "not ready" as well.
	pinsFirst
)

// deleteFiles deletes what tearDown leaves: first the state directory, then,
// in one rename, the record that led to it.
func (m *Manager) deleteFiles(id string) error {
	if err := discard(m.stateOf(id)); err != nil {
		return err
	}
	return discard(m.recordDir(id))
}

// discard is linux.Discard for a directory that hardly ever has directories or
// mounts in it: it looks for mounts only where deleting entry by entry, which
// cannot reach through a mount, does not do.
func discard(dir string) error {
	if err := os.Remove(dir); err == nil { // it was empty
		return nil
	}
	parent, name := filepath.Split(dir)
	trash := filepath.Join(parent, ".trash-"+name)
	if err := os.Rename(dir, trash); err != nil {
		return linux.Discard(dir)
	}
	entries, err := os.ReadDir(trash)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(trash, e.Name())); err != nil {
			return linux.RemoveAll(trash)
		}
	}
	return os.Remove(trash)
}

// detach is Network.Detach within its own time.
func (m *Manager) detach(ctx context.Context, id, netns string) error {
	bounded, cancel := context.WithTimeout(ctx, m.config.DetachTimeout)
	defer cancel()
	if err := m.config.Network.Detach(bounded, id, netns); err != nil {
		return fmt.Errorf("release network of sandbox %s: %w", id, err)
	}
	return nil
}
