package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// input is what AttachRequest and ExecRequest have in common.
type input interface {
	GetStdin() []byte
	GetStdinClosed() bool
	GetSize() *nodev1.TerminalSize
	GetSignal() string
}

// client is the far end of an Attach or Exec.
type client struct {
	recv  func() (input, error)
	send  func(*nodev1.StreamResponse) error
	sizes chan runtime.Size
	// signal passes a signal on to the process.
	signal func(ctx context.Context, name string) error
	// goesOn: the process does when the client goes. Nobody reads what it writes
	// then, and its terminal hangs up.
	goesOn bool
	// sending makes one message follow another, and guards left: messages are
	// dropped from then on.
	sending sync.Mutex
	left    bool
}

// newClient returns a client that begins with a size, which may be nil.
func newClient(size *nodev1.TerminalSize, recv func() (input, error), send func(*nodev1.StreamResponse) error) *client {
	c := &client{recv: recv, send: send, sizes: make(chan runtime.Size, 1)}
	if size != nil {
		c.resize(size)
	}
	return c
}

// resize replaces a size that nobody has taken yet: the last one counts.
func (c *client) resize(s *nodev1.TerminalSize) {
	size := runtime.Size{Width: uint16(min(s.GetWidth(), 1<<16-1)), Height: uint16(min(s.GetHeight(), 1<<16-1))}
	for {
		select {
		case c.sizes <- size:
			return
		default:
		}
		select {
		case <-c.sizes:
		default:
		}
	}
}

// connect begins to read the client's messages, and returns the streams of a
// process for it. The context ends when the client goes; done must be called.
// The reading ends with the stream: nothing else can make it.
func (c *client) connect(ctx context.Context, wants runtime.Streams) (runtime.Streams, context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stdin, to := io.Pipe()
	go func() {
		err := c.read(ctx, to)
		_ = to.Close()
		if err != nil && c.goesOn {
			close(c.sizes)
		}
		if err != nil {
			cancel(fmt.Errorf("the client has gone: %w", err))
		}
	}()
	if wants.Stdin == nil {
		_ = stdin.Close() // what comes is dropped
	} else {
		wants.Stdin = stdin
	}
	wants.Resize = c.sizes
	if wants.Stdout != nil {
		wants.Stdout = output(func(b []byte) error { return c.say(&nodev1.StreamResponse{Stdout: b}) })
	}
	if wants.Stderr != nil {
		wants.Stderr = output(func(b []byte) error { return c.say(&nodev1.StreamResponse{Stderr: b}) })
	}
	return wants, ctx, func() {
		_ = stdin.Close()
		cancel(nil)
	}
}

// read takes the client's messages until it goes. It returns nil where the
// client only has no more to say.
func (c *client) read(ctx context.Context, stdin *io.PipeWriter) error {
	for {
		m, err := c.recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if b := m.GetStdin(); len(b) > 0 {
			_, _ = stdin.Write(b) // the process may not read it any more
		}
		if m.GetStdinClosed() {
			_ = stdin.Close()
		}
		if m.GetSize() != nil {
			c.resize(m.GetSize())
		}
		if m.GetSignal() != "" && c.signal != nil {
			_ = c.signal(ctx, m.GetSignal()) // the process may have ended
		}
	}
}

// say sends one message.
func (c *client) say(m *nodev1.StreamResponse) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.left {
		return nil
	}
	err := c.send(m)
	if err != nil && c.goesOn {
		c.left, err = true, nil
	}
	return err
}

// leave lets what is connected go on without its client: nothing is sent any
// more, and that is no error.
func (c *client) leave() {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.left = true
}

// someStream stands for a stream that is wanted, until connect fills it in.
type someStream struct{}

func (someStream) Read([]byte) (int, error)    { return 0, io.EOF }
func (someStream) Write(b []byte) (int, error) { return len(b), nil }

// maxChunk of output goes into one message.
const maxChunk = 64 << 10

// output sends what is written to it.
type output func([]byte) error

func (o output) Write(b []byte) (int, error) {
	for sent := 0; sent < len(b); {
		n := min(len(b)-sent, maxChunk)
		// A message is encoded before its sending returns.
		if err := o(b[sent : sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(b), nil
}

// bounded keeps the beginning of an output, of several writers.
type bounded struct {
	mu sync.Mutex
	b  []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p[:min(len(p), maxProbeOutput-len(b.b))]...)
	return len(p), nil
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}
