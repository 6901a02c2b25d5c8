package sandbox

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Revive makes a sandbox that is NotReady Ready again: the same id and Params,
// with new namespaces, a new place in the network and new files. One that is
// Ready is a success. On an error the sandbox is NotReady as before, and has
// nothing.
func (m *Manager) Revive(ctx context.Context, id string) error {
	return fmt.Errorf("revive sandbox %s: %w", id, errdefs.ErrNotImplemented)
}

// SetHosts replaces the lines of the pod's hosts file that come after its own
// and those of Params.ExtraHosts: "ADDRESS NAME...", where the address may be
// HostGateway. Containers that have the file mounted see them at once. They are
// kept with the sandbox.
func (s *Sandbox) SetHosts(ctx context.Context, extra []string) error {
	return fmt.Errorf("set hosts of sandbox %s: %w", s.ID(), errdefs.ErrNotImplemented)
}
