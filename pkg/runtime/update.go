package runtime

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the container's resource limits and, only if that succeeded,
// what the caller keeps with it.
func (c *Container) Update(ctx context.Context, resources *specs.LinuxResources, request []byte) error {
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
