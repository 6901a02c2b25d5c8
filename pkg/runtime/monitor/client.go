package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords is how long a client of a container that has exited may take for
// one piece of what is left.
const lastWords = 30 * time.Second

// A client is one attach. It belongs to a session of its own, with which it
// ends:
//
//	ATTACHED --output complete and delivered--> told so --session ends--> gone
//	   |------too far behind------------------> told so ------^
//	   '------session ends---------------------------------------------> gone
type client struct {
	container *container
	hub       *hub
	outputs   [streamCount]*clientOutput // nil is not wanted
	// stdin is our end of the socket, input the container's stdin or terminal;
	// both are nil where there is none.
	stdin, input *os.File

	// dropped is closed, after reason is set, when the hub has let go of it.
	dropped chan struct{}
	reason  error
}

// clientOutput is one stream on its way to a client. hub.mu guards offset and
// gone.
type clientOutput struct {
	conn   *os.File
	wake   chan struct{}
	offset int64
	gone   bool
}

func (o *clientOutput) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// hurry bounds the Write under way and the next one.
func (o *clientOutput) hurry() {
	_ = o.conn.SetWriteDeadline(time.Now().Add(lastWords)) // it fails on a closed one
}

// attach makes the session's client and returns the client's ends: stdin,
// stdout and stderr, as far as they are asked for.
func (s *session) attach(raw json.RawMessage, c *container) (fds []int, err error) {
	b, err := decode[attachBody](raw)
	if err != nil {
		return nil, err
	}
	k := &client{container: c, hub: c.pump.hub, dropped: make(chan struct{})}
	defer func() {
		if err != nil {
			closeFDs(fds)
			fds = nil
			k.closeAll()
		}
	}()
	open := func(wanted bool) (*os.File, error) {
		if !wanted {
			return nil, nil
		}
		ours, theirs, err := socketPair()
		if err == nil {
			fds = append(fds, theirs)
		}
		return ours, err
	}
	if k.stdin, err = open(b.Stdin); err != nil {
		return fds, err
	}
	for i, wanted := range [streamCount]bool{b.Stdout, b.Stderr} {
		conn, err := open(wanted)
		if err != nil {
			return fds, err
		}
		if conn != nil {
			k.outputs[i] = &clientOutput{conn: conn, wake: make(chan struct{}, 1)}
		}
	}
	return fds, s.adoptClient(k)
}

// adoptClient makes the session end with the client, and begins.
func (s *session) adoptClient(k *client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil || s.ended {
		return fmt.Errorf("%w: one attach for each connection", ErrInvalid)
	}
	if k.stdin != nil {
		var err error
		if k.input, err = k.container.openInput(); err != nil {
			return err
		}
	}
	if err := k.hub.join(k); err != nil {
		return err
	}
	s.client = k
	s.attached.Go(func() { s.runClient(k) })
	return nil
}

// dropClient ends the attach of a session that ends.
func (s *session) dropClient() {
	s.mu.Lock()
	s.ended = true
	k := s.client
	s.mu.Unlock()
	if k != nil {
		k.hub.drop(k, ErrMonitorLost)
	}
	s.attached.Wait()
}

// runClient moves a client's bytes until it is dropped or has everything.
func (s *session) runClient(k *client) {
	var outputs, input sync.WaitGroup
	for i, o := range k.outputs {
		if o != nil {
			outputs.Go(func() { k.send(i, o) })
		}
	}
	if k.stdin != nil {
		input.Go(func() { s.feed(k) })
	}
	outputs.Wait()
	select {
	case <-k.hub.done:
	case <-k.dropped:
	}
	k.hub.drop(k, nil)
	k.closeAll()
	input.Wait()
	end := message{Op: eventAttachEnd}
	if k.reason != nil {
		end.Error = toWire(k.reason)
	}
	s.conn.send(end)
}

// send brings one stream to the client, at the client's pace.
func (k *client) send(stream int, o *clientOutput) {
	defer k.hub.unwant(stream, o)
	for {
		p, more := k.hub.next(stream, o)
		if !more {
			return
		}
		if len(p) == 0 {
			<-o.wake
			continue
		}
		n, err := o.conn.Write(p)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			k.hub.drop(k, fmt.Errorf("%w: the container has exited", ErrSlow))
			return
		}
		if err != nil {
			return // it does not want this stream any more
		}
		k.hub.advance(stream, o, n)
		select {
		case <-k.hub.done:
			o.hurry()
		default:
		}
	}
}

// feed brings the client's stdin to the container, at the container's pace.
func (s *session) feed(k *client) {
	if k.input != nil {
		// Plain reads and writes: bytes must not get stuck between the two.
		_, _ = io.Copy(struct{ io.Writer }{k.input}, struct{ io.Reader }{k.stdin}) // either side may go
		k.container.closeInput(k.input)
	}
	_ = k.stdin.Close() // the client learns that nobody reads it
	r := k.container.copyRecord()
	if k.input == nil || r.TTY || !r.StdinOnce {
		return
	}
	if err := k.container.closeStdin(); err != nil {
		s.m.logger.Error("stdin is not closed", "containerID", r.ID, "error", err)
		return
	}
	s.m.broadcast(eventStdinClosed, Event{ID: r.ID})
}

// closeAll closes what the client has open.
func (k *client) closeAll() {
	for _, o := range k.outputs {
		if o != nil {
			_ = o.conn.Close() // it may be closed
		}
	}
	if k.stdin != nil {
		_ = k.stdin.Close() // it may be closed
	}
	if k.input != nil {
		k.container.closeInput(k.input)
	}
}

// socketPair returns our end and the client's.
func socketPair() (*os.File, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "attach"), fds[1], nil
}

// openInput opens the container's stdin, or its terminal, for one client, which
// must call closeInput. It returns nil where there is none to write to.
func (c *container) openInput() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.stdin
	if c.record.TTY {
		fd = c.tty
	}
	if fd < 0 || c.exit != nil {
		return nil, nil
	}
	if c.record.StdinOnce && !c.record.TTY && !c.record.StdinUsed {
		// If the monitor dies, the client's stdin ends with it.
		c.record.StdinUsed = true
		if err := c.m.saveRecord(c.record); err != nil {
			c.record.StdinUsed = false
			return nil, err
		}
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("duplicate stdin", err)
	}
	f := os.NewFile(uintptr(dup), "stdin")
	c.inputs[f] = struct{}{}
	return f, nil
}

func (c *container) closeInput(f *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inputs, f)
	_ = f.Close() // closeInputsLocked may have done it
}

// closeInputsLocked takes the container's stdin from its clients.
func (c *container) closeInputsLocked() {
	for f := range c.inputs {
		_ = f.Close() // a Write under way ends
	}
	clear(c.inputs)
}
