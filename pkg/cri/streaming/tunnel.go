package streaming

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

// tunnel is a WebSocket connection as the byte stream that its binary messages
// make up. It has one reader, and one writer at a time.
type tunnel struct {
	*link
	ws      *websocket.Conn
	message io.Reader  // under way; nil between messages
	spdy    spdyFrames // in the messages
	whole   frameWriter
}

// openTunnel upgrades a connection for SPDY in WebSocket.
func (s *session) openTunnel(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	ws, err := upgradeWebSocket(w, r, []string{portforward.WebsocketsSPDYTunnelingPortForwardV1})
	if err != nil {
		return nil, err
	}
	t := &tunnel{link: s.link, ws: ws}
	t.spdy = spdyFrames{in: readerFunc(t.read)}
	t.whole = frameWriter{out: writerFunc(t.write)}
	return t, nil
}

// Read reads the frames in the messages.
func (t *tunnel) Read(p []byte) (int, error) { return t.spdy.Read(p) }

// read reads on, from message to message.
func (t *tunnel) read(p []byte) (int, error) {
	for {
		if t.message == nil {
			kind, message, err := t.ws.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, protocolError("a text message in a tunnel")
			}
			t.message = message
		}
		n, err := t.message.Read(p)
		if errors.Is(err, io.EOF) {
			t.message, err = nil, nil
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// Write sends a message for each frame.
func (t *tunnel) Write(p []byte) (int, error) { return t.whole.Write(p) }

// write sends a message.
func (t *tunnel) write(p []byte) (int, error) {
	if err := t.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		t.broken.Store(true) // also where it is not the link that failed
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye, unless the client does not listen, and closes the link.
func (t *tunnel) Close() error {
	message := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = t.ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(time.Second))
	return t.link.Close()
}
