package runtime

import (
	"errors"
	"io"
)

// Size of a terminal in characters.
type Size struct{ Width, Height uint16 }

// Streams is the far end of an exec or attach: a client. Nil is a stream
// nobody wants.
//
// Exec and Attach do not wait for a Read of Stdin that blocks: they return
// while it does, and the goroutine in it ends when it returns. Whoever owns
// Stdin must therefore make a blocked Read return, by closing what it reads
// from, once Exec or Attach has returned. Stdout and Stderr are not used any
// more after that; a Write that blocks is waited for, so the owner must end it
// too when the client goes.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// TTY says that the client talks to a terminal: output is Stdout alone, and
	// the end of Stdin does not reach the process.
	TTY bool
	// Resize tells the sizes of the client's terminal. It is closed when the
	// client goes: the terminal of an exec hangs up.
	Resize <-chan Size
	// Detached is for Exec: once it has begun, the process goes on when ctx, or the
	// daemon, ends. It has no other streams.
	Detached bool
	// Connected, if set, is called by Attach once the client is connected and
	// will miss nothing from there on. It must not block.
	Connected func()
	// Started, if set, is called by Exec, at most once, when the process is there.
	// One that ends at once may not be seen. It must not block.
	Started func()
}

// ErrSlowClient ends an attach whose client did not read what the container
// wrote, while others did.
var ErrSlowClient = errors.New("client did not read the container's output in time")
