package runtime

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the container's resource limits and, only if that succeeded,
// what the caller keeps with it. It gets both from change, which is given what
// the update before it has left.
func (c *Container) Update(ctx context.Context, change func(*Status) (resources *specs.LinuxResources, request []byte, err error)) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if s := c.Status().State; s != Created && s != Running {
		return fmt.Errorf("container %s is %s: %w", c.id, s, errdefs.ErrFailedPrecondition)
	}
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	resources, request, err := change(c.Status())
	if err != nil {
		return err
	}
	document, err := json.Marshal(resources)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	if err := runtime.Update(ctx, c.id, c.logFile(), document); err != nil {
		return err
	}
	return c.SetRequest(request)
}

// ReopenLog makes the monitor open the log file anew, after somebody renamed
// it. The new file exists when it returns.
func (c *Container) ReopenLog(ctx context.Context) error {
	if err := c.expect(Running); err != nil {
		return err
	}
	return c.m.monitor.ReopenLog(ctx, c.id)
}
