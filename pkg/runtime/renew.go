package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Renew makes a container that has exited Created again, with the same id, the
// same root file system and everything in it, and the same log, which goes on.
// What its last end was is forgotten, Exited is a new channel, and
// Status.Restarts is one more. On an error the container is Exited as before.
//
// The options are those of Create; Restore must be nil.
func (c *Container) Renew(ctx context.Context, o CreateOptions) error {
	return fmt.Errorf("renew container %s: %w", c.id, errdefs.ErrNotImplemented)
}
