package monitor

import "context"

// Config says where the monitor lives.
type Config struct {
	// Dir is the monitor's directory: socket, lock, log and index.
	Dir string
	// Exe is the binary to start; "" means the running one.
	Exe string
	// OnEvent is called for each event, one after another. It may call the
	// Supervisor. An event may come before Create has returned.
	OnEvent func(Event)
}

// Supervisor is the daemon's end: it keeps one monitor alive and talks to it.
type Supervisor struct{}

// Start connects to the living monitor or starts one.
func Start(ctx context.Context, cfg Config) (*Supervisor, error) { return nil, ErrClosed }

// Create runs the OCI runtime's create.
func (s *Supervisor) Create(ctx context.Context, req CreateRequest) (CreateResult, error) {
	return CreateResult{}, ErrClosed
}

// ReopenLog opens the log file anew.
func (s *Supervisor) ReopenLog(ctx context.Context, id string) error { return ErrClosed }

// Resize sets the size of a container's terminal.
func (s *Supervisor) Resize(ctx context.Context, id string, width, height uint16) error {
	return ErrClosed
}

// CloseStdin closes a container's stdin.
func (s *Supervisor) CloseStdin(ctx context.Context, id string) error { return ErrClosed }

// Forget drops what the monitor knows of an exited container.
func (s *Supervisor) Forget(ctx context.Context, id string) error { return ErrClosed }

// List tells of all containers.
func (s *Supervisor) List(ctx context.Context) ([]ContainerState, error) { return nil, ErrClosed }

// PID is the monitor's process id.
func (s *Supervisor) PID() int { return 0 }

// Close lets go of the monitor, which goes on living.
func (s *Supervisor) Close() error { return nil }

// Shutdown ends the monitor if it has no container.
func (s *Supervisor) Shutdown(ctx context.Context) error { return ErrClosed }

// Upgrade makes the monitor execute a new binary in place.
func (s *Supervisor) Upgrade(ctx context.Context) error { return ErrClosed }
