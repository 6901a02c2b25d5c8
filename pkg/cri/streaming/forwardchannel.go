package streaming

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// channelForward is a port-forward over WebSocket channels: two for each port
// that the CRI call named, one connection for each port.
type channelForward struct {
	w     http.ResponseWriter
	r     *http.Request
	ports []uint16
	dial  dialer
}

// maxChannelPorts is as many as channels can be told apart by one byte.
const maxChannelPorts = 127

// forwardChannels serves such a port-forward. Each channel begins with its
// port, as two bytes, the lower first.
func (s *session) forwardChannels(ctx context.Context, cancel context.CancelCauseFunc, f channelForward) error {
	if n := len(f.ports); n == 0 || n > maxChannelPorts {
		http.Error(f.w, "the request named no ports, or too many", http.StatusBadRequest)
		return protocolError("%d ports", n)
	}
	reads := make([]bool, 2*len(f.ports))
	for i := range f.ports {
		reads[2*i] = true
	}
	c, err := s.upgradeChannels(f.w, f.r, channelOptions{protocols: []string{channelV4, channelV4Base64}, reads: reads})
	if err != nil {
		return err
	}
	defer c.close()
	s.run(func() { s.watch(ctx, cancel) })
	defer context.AfterFunc(ctx, func() { s.link.limitWrites(s.config.tellTime) })()
	s.run(func() {
		select {
		case <-c.done:
		case <-s.gone:
		case <-ctx.Done():
			return
		}
		cancel(errClientLeft)
	})
	var all sync.WaitGroup
	for i, port := range f.ports {
		all.Go(func() {
			defer s.recover()
			f.serve(ctx, c, i, port)
		})
	}
	all.Wait()
	s.link.limitWrites(s.config.tellTime)
	c.finish()
	s.linger(c.done)
	return nil
}

func (f channelForward) serve(ctx context.Context, c *channels, i int, port uint16) {
	data := duplex{PipeReader: c.read[2*i], Writer: channel{c, byte(2 * i)}}
	failures := channel{c, byte(2*i + 1)}
	name := binary.LittleEndian.AppendUint16(nil, port)
	for _, w := range []io.Writer{data, failures} {
		if _, err := w.Write(name); err != nil {
			return // the client left
		}
	}
	conn, err := f.dial(ctx, port)
	if err != nil {
		_, _ = fmt.Fprintf(failures, "forward port %d: %v", port, err) // best effort
		return
	}
	if err := copyBoth(ctx, conn, data, c.session.touch); err != nil {
		c.session.log.V(logForwards).Info("Forwarded connection broke", "port", port, "err", err)
	}
}

// duplex is a channel in both directions. There is no half of it to close: its
// end makes the client's data go nowhere, and that ends the copying of it.
type duplex struct {
	*io.PipeReader // also Close, which is for the other direction
	io.Writer
}
