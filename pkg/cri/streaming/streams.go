package streaming

import (
	"context"
	"io"
	"net"
)

// Runtime does what the streams are for.
type Runtime interface {
	// Exec runs a command and returns its exit code. An error says that there is
	// none.
	Exec(ctx context.Context, e Exec, s Streams) (code int, err error)
	// Attach connects to a container until it has exited or ctx ends.
	Attach(ctx context.Context, a Attach, s Streams) error
	// Dial connects to a port of a pod.
	Dial(ctx context.Context, sandboxID string, port uint16) (net.Conn, error)
}

// Wants says which streams a client wants. A terminal has no stderr.
type Wants struct{ Stdin, Stdout, Stderr, TTY bool }

// Exec is a command to run in a container.
type Exec struct {
	ContainerID string
	Command     []string
	Wants
}

// Attach is a container to attach to.
type Attach struct {
	ContainerID string
	Wants
}

// PortForward is a pod whose ports are wanted. Ports matters to clients that use
// WebSocket channels alone; the others name the port of each connection.
type PortForward struct {
	SandboxID string
	Ports     []uint16
}

// Size of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Streams is the client. A stream that it did not ask for is nil.
//
// A Read of Stdin may block after Exec and Attach have returned; it ends soon
// after. Writes fail once the client is gone.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize tells the sizes of the client's terminal, the latest if nobody
	// listened. It is closed when the client tells no more.
	Resize <-chan Size
}
