package oci

import "context"

// StartsByFIFO reports whether a created container is let go by opening
// ExecFIFO for reading, which is all that runc's start does. Hooks are run by
// the binary alone.
func (r *Runtime) StartsByFIFO(hooks bool) bool { return r.release && !hooks }

// Start runs the binary's start, which lets the process of a created container
// go.
func (r *Runtime) Start(ctx context.Context, id, logFile string) error {
	return r.run(ctx, logFile, "start", id)
}
