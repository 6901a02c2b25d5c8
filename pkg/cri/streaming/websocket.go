package streaming

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// The subprotocols of WebSocket. Each message is one byte that names a channel,
// then data. The base64 forms have a digit and base64 in text messages; v5 adds
// a message that closes a channel.
const (
	channelV1       = "channel.k8s.io"
	channelV1Base64 = "base64.channel.k8s.io"
	channelV4       = "v4.channel.k8s.io"
	channelV4Base64 = "v4.base64.channel.k8s.io"
	channelV5       = "v5.channel.k8s.io"
)

// closeChannel in place of the channel: the next byte names one whose sender
// has no more to send. Of v5.
const closeChannel = 255

const (
	// maxMessage bounds the data of one message that we send, so that it goes in
	// one frame: some clients do not put fragments together.
	maxMessage = 32 << 10
	// frameRoom is for the frame's header and the channel.
	frameRoom = 16
)

// frames are the buffers of WebSocket connections, which hold one only while
// they write.
var frames sync.Pool

// channels is a WebSocket connection with channels, each one way or both.
type channels struct {
	session *session
	ws      *websocket.Conn
	base64  bool
	closes  bool // the client may close channels

	// in has the far end of each channel that is read; nil where it is not.
	in   []*io.PipeWriter
	read []*io.PipeReader
	done chan bool // closed when the connection has ended

	mu sync.Mutex // makes messages follow one another
	// waiting says that a message waits for its reader, and nothing is read
	// from the connection meanwhile, pings neither.
	waiting atomic.Bool
}

// channelOptions of a connection.
type channelOptions struct {
	protocols []string // acceptable ones, the first is best
	reads     []bool   // for each channel whether it is read
}

// upgradeChannels upgrades a connection and begins to read from it. A client
// that names no protocol gets the first version.
func (s *session) upgradeChannels(w http.ResponseWriter, r *http.Request, o channelOptions) (*channels, error) {
	ws, err := upgradeWebSocket(w, r, o.protocols)
	if err != nil {
		return nil, err
	}
	c := &channels{
		session: s, ws: ws, done: make(chan bool),
		base64: strings.Contains(ws.Subprotocol(), "base64"),
		closes: ws.Subprotocol() == channelV5,
		in:     make([]*io.PipeWriter, len(o.reads)),
		read:   make([]*io.PipeReader, len(o.reads)),
	}
	for i, reads := range o.reads {
		if reads {
			c.read[i], c.in[i] = io.Pipe()
		}
	}
	s.run(c.receiveAll)
	s.run(c.keepAlive)
	return c, nil
}

// anyOrigin lets every page of a browser connect that knows a URL: its token,
// which is good once and for a minute, is what keeps others out. kubelet passes
// on the Origin of a dashboard, which is never this server's host.
func anyOrigin(*http.Request) bool { return true }

func upgradeWebSocket(w http.ResponseWriter, r *http.Request, protocols []string) (*websocket.Conn, error) {
	asked := websocket.Subprotocols(r)
	upgrader := websocket.Upgrader{
		Subprotocols:    protocols,
		ReadBufferSize:  4 << 10,
		WriteBufferSize: maxMessage + frameRoom,
		WriteBufferPool: &frames,
		CheckOrigin:     anyOrigin,
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("upgrade connection to WebSocket: %w", err)
	}
	if len(asked) > 0 && ws.Subprotocol() == "" {
		message := websocket.FormatCloseMessage(websocket.CloseProtocolError, fmt.Sprintf("want one of %v", protocols))
		return nil, errors.Join(protocolError("the client speaks none of %v", protocols),
			ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(time.Second)))
	}
	return ws, nil
}

// receiveAll hands what comes to the channels' readers until the connection
// ends.
func (c *channels) receiveAll() {
	defer close(c.done)
	defer c.endInput(io.EOF)
	for {
		_, message, err := c.ws.NextReader()
		if err == nil {
			err = c.receive(message)
		}
		if err != nil {
			return
		}
	}
}

// receive takes one message. An error means that the connection is of no use.
func (c *channels) receive(message io.Reader) error {
	var number [1]byte
	if _, err := io.ReadFull(message, number[:]); errors.Is(err, io.EOF) {
		return nil // empty
	} else if err != nil {
		return err
	}
	n := int(number[0])
	if c.closes && n == closeChannel {
		return c.receiveClose(message)
	}
	if c.base64 {
		n -= '0'
		message = base64.NewDecoder(base64.StdEncoding, message)
	}
	if n < 0 || n >= len(c.in) || c.in[n] == nil {
		return nil // for nobody; the rest of the message is skipped
	}
	buffer := make([]byte, 4<<10)
	for {
		got, err := message.Read(buffer)
		if got > 0 {
			c.session.touch()
			c.waiting.Store(true)
			_, _ = c.in[n].Write(buffer[:got]) // fails when nobody wants more
			c.waiting.Store(false)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *channels) receiveClose(message io.Reader) error {
	rest, err := io.ReadAll(io.LimitReader(message, 2))
	if err != nil {
		return err
	}
	if len(rest) != 1 || int(rest[0]) >= len(c.in) {
		return protocolError("a close of channels % x", rest)
	}
	if in := c.in[rest[0]]; in != nil {
		return in.Close()
	}
	return nil
}

// keepAlive tells a client that sends pings that we live while its pings are
// behind data that waits for a reader: it would give up after a minute.
func (c *channels) keepAlive() {
	tick := time.NewTicker(c.session.config.watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-c.session.gone:
			return
		case <-tick.C:
			if c.waiting.Load() {
				_ = c.ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second))
			}
		}
	}
}

// endInput ends what readers of channels get; messages for them are dropped
// from now on.
func (c *channels) endInput(err error) {
	for i, in := range c.in {
		if in != nil {
			_ = in.CloseWithError(err)
			if !errors.Is(err, io.EOF) {
				_ = c.read[i].CloseWithError(err)
			}
		}
	}
}

// channel is one channel as a writer.
type channel struct {
	*channels
	number byte
}

// Write sends messages.
func (c channel) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for first := true; first || n < len(p); first = false { // also nothing is a message
		part := p[n:min(len(p), n+maxMessage)]
		if c.base64 {
			part = p[n:min(len(p), n+maxMessage/4*3-3)]
		}
		if err := c.send(c.number, part); err != nil {
			return n, err
		}
		c.session.touch()
		n += len(part)
	}
	return n, nil
}

func (c *channels) send(number byte, data []byte) error {
	if c.base64 {
		w, err := c.ws.NextWriter(websocket.TextMessage)
		if err != nil {
			return err
		}
		text := base64.StdEncoding.EncodeToString(data)
		_, err = io.WriteString(w, string('0'+rune(number))+text)
		return errors.Join(err, w.Close())
	}
	w, err := c.ws.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	_, err = w.Write([]byte{number})
	if err == nil {
		_, err = w.Write(data)
	}
	return errors.Join(err, w.Close())
}

// finish tells the client that all is said.
func (c *channels) finish() {
	c.endInput(errors.New("the session is over"))
	c.mu.Lock() // after the last message
	defer c.mu.Unlock()
	message := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(c.session.config.tellTime))
}

func (c *channels) ended() <-chan bool { return c.done }

func (c *channels) close() {
	c.endInput(errors.New("the session is over"))
	_ = c.session.link.Close()
	<-c.done
}

// Channels of an exec or attach.
const (
	stdinChannel = iota
	stdoutChannel
	stderrChannel
	errorChannel
	resizeChannel
)

// channelRemote is an exec or attach over channels.
type channelRemote struct {
	*channels
	wants  Wants
	resize chan Size
}

// openChannels upgrades the connection. The caller must close the session's
// link even after an error.
func (s *session) openChannels(_ context.Context, w http.ResponseWriter, r *http.Request, wants Wants) (transport, error) {
	c, err := s.upgradeChannels(w, r, channelOptions{
		protocols: []string{channelV5, channelV4, channelV4Base64, channelV1, channelV1Base64},
		reads:     []bool{stdinChannel: wants.Stdin, resizeChannel: wants.TTY},
	})
	if err != nil {
		return nil, err
	}
	t := &channelRemote{channels: c, wants: wants}
	if wants.TTY {
		t.resize = make(chan Size, 1)
		s.run(func() { copySizes(t.resize, c.read[resizeChannel]) })
	}
	// Old clients wait for a first message to know that all is well.
	first := byte(errorChannel)
	switch {
	case wants.Stdout:
		first = stdoutChannel
	case wants.Stderr:
		first = stderrChannel
	}
	if _, err := (channel{c, first}).Write(nil); err != nil {
		c.close()
		return nil, fmt.Errorf("%w: %w", errClientLeft, err)
	}
	return t, nil
}

func (t *channelRemote) streams() Streams {
	s := Streams{Resize: t.resize}
	if t.wants.Stdin {
		s.Stdin = t.read[stdinChannel]
	}
	if t.wants.Stdout {
		s.Stdout = channel{t.channels, stdoutChannel}
	}
	if t.wants.Stderr {
		s.Stderr = channel{t.channels, stderrChannel}
	}
	return s
}

func (t *channelRemote) cut() { t.endInput(io.EOF) }

func (t *channelRemote) tell(end status) {
	protocol := t.ws.Subprotocol()
	structured := protocol == channelV5 || protocol == channelV4 || protocol == channelV4Base64
	if message := end.encode(structured); len(message) > 0 {
		_, _ = channel{t.channels, errorChannel}.Write(message) // best effort
	}
	t.finish()
}
