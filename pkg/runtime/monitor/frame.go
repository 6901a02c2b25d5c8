package monitor

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxFrame    = 8 << 20
	maxFrameFDs = 8
)

// readMessage reads one frame. It never allocates more than has arrived, plus
// a little, whatever length the frame claims.
func readMessage(r io.Reader) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length > maxFrame {
		return message{}, fmt.Errorf("frame of %d bytes is longer than %d", length, maxFrame)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err != nil {
		return message{}, err
	}
	if len(body) < int(length) {
		return message{}, io.ErrUnexpectedEOF
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return message{}, fmt.Errorf("decode frame: %w", err)
	}
	if m.FDs < 0 || m.FDs > maxFrameFDs {
		return message{}, fmt.Errorf("frame with %d file descriptors", m.FDs)
	}
	return m, nil
}

// appendMessage encodes one frame.
func appendMessage(b []byte, m message) ([]byte, error) {
	m.FDs = len(m.fds)
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes is longer than %d", len(body), maxFrame)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

// conn is one end of a connection. Sending never blocks: a peer that is
// stopped must not stop the other. One goroutine, run by writeLoop, sends.
type conn struct {
	socket *net.UnixConn
	reader *bufio.Reader
	rights *rightsReader

	mu     sync.Mutex
	queue  []message
	closed bool
	wake   chan struct{}
}

func newConn(socket *net.UnixConn) *conn {
	rights := &rightsReader{socket: socket}
	return &conn{
		socket: socket,
		rights: rights,
		reader: bufio.NewReaderSize(rights, 4096),
		wake:   make(chan struct{}, 1),
	}
}

// receive returns the next message; its file descriptors belong to the caller. Only one
// goroutine may call it.
func (c *conn) receive() (message, error) {
	m, err := readMessage(c.reader)
	if err != nil {
		return message{}, err
	}
	m.fds, err = c.rights.take(m.FDs)
	return m, err
}

// send queues a message. It takes ownership of the message's file descriptors.
func (c *conn) send(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		closeFDs(m.fds)
		return
	}
	c.queue = append(c.queue, m)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeLoop sends what is queued until the connection is closed or breaks.
func (c *conn) writeLoop() {
	for range c.wake {
		c.mu.Lock()
		queue, closed := c.queue, c.closed
		c.queue = nil
		c.mu.Unlock()
		for _, m := range queue {
			if !closed {
				closed = c.write(m) != nil
			}
			closeFDs(m.fds)
		}
		if closed {
			c.close()
			return
		}
	}
}

func (c *conn) write(m message) error {
	b, err := appendMessage(nil, m)
	if err != nil {
		return err
	}
	if len(m.fds) > 0 {
		// WriteMsgUnix may write a part; of 4 bytes there is none.
		if _, _, err := c.socket.WriteMsgUnix(b[:4], unix.UnixRights(m.fds...), nil); err != nil {
			return err
		}
		b = b[4:]
	}
	_, err = c.socket.Write(b)
	return err
}

// close ends both loops. It can be called more than once.
func (c *conn) close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		for _, m := range c.queue {
			closeFDs(m.fds)
		}
		c.queue = nil
		close(c.wake)
	}
	c.mu.Unlock()
	_ = c.socket.Close() // the peer learns all there is to learn
}

// rightsReader reads a socket's bytes and collects the file descriptors that
// come with them, in order.
type rightsReader struct {
	socket *net.UnixConn
	fds    []int
}

// Read implements io.Reader.
func (r *rightsReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(maxFrameFDs*4))
	n, oobn, flags, _, err := r.socket.ReadMsgUnix(p, oob)
	n = max(n, 0) // it is -1 with an error, which io.Reader forbids
	if oobn > 0 {
		if parseErr := r.collect(oob[:oobn]); parseErr != nil {
			return n, parseErr
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return n, errors.New("file descriptors of a frame were cut off")
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (r *rightsReader) collect(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // not SCM_RIGHTS
		}
		r.fds = append(r.fds, fds...)
	}
	return nil
}

// take hands out the next n collected descriptors.
func (r *rightsReader) take(n int) ([]int, error) {
	if n == 0 {
		return nil, nil
	}
	if n > len(r.fds) {
		return nil, fmt.Errorf("frame announces %d file descriptors, %d came", n, len(r.fds))
	}
	fds := r.fds[:n:n]
	r.fds = r.fds[n:]
	return fds, nil
}

// drop closes what was collected and not taken, once nobody reads any more.
func (r *rightsReader) drop() {
	closeFDs(r.fds)
	r.fds = nil
}

// closeFDs closes raw descriptors. They are raw because an os.File would put
// pipes and terminals into the poller of a process that does not read them,
// and wake it at each byte.
func closeFDs(fds []int) {
	for _, fd := range fds {
		closeFD(fd)
	}
}

// closeFD closes one; nothing was written through it that could be lost.
func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
