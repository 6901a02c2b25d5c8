package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Attach connects a client to the streams that the running container's init
// was given, and returns when the container has exited and the client has all
// of its output, when ctx ends, or with ErrSlowClient. Output from before the
// call is in the log alone. The container is not affected by who is attached,
// but that one with StdinOnce loses its stdin when the first client's ends.
func (c *Container) Attach(ctx context.Context, s Streams) error {
	if err := c.expect(Running); err != nil {
		return err
	}
	return fmt.Errorf("attach to container %s: %w", c.id, errdefs.ErrNotImplemented)
}
