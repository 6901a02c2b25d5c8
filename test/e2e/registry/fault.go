package registry

import (
	"errors"
	"net"
	"net/http"
)

// fault is what happens to the bodies of blobs.
type fault struct {
	after   int64         // bytes of a body before the fault
	times   int           // bodies still to be hit
	reached chan struct{} // closed when a body stalls
	release chan struct{} // a stalled body waits for it; nil means reset instead
}

// ResetBlobs resets the connection after the given number of bytes in each of
// the next bodies that are longer.
func (r *Registry) ResetBlobs(after int64, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault{after: after, times: times}
}

// StallBlobs lets the next body longer than the given number of bytes stop there
// until Release; the channel is closed when it does.
func (r *Registry) StallBlobs(after int64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault{after: after, times: 1, reached: make(chan struct{}), release: make(chan struct{})}
	return r.fault.reached
}

// Release lets stalled bodies go on and ends all faults.
func (r *Registry) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault.release != nil {
		close(r.fault.release)
	}
	r.fault = fault{}
}

func (r *Registry) faulty(w http.ResponseWriter) http.ResponseWriter {
	return &faultyBody{ResponseWriter: w, registry: r}
}

// faultyBody passes a body on until the fault's point is reached.
type faultyBody struct {
	http.ResponseWriter
	registry *Registry
	written  int64
	done     bool
}

var errReset = errors.New("connection reset by fault")

func (b *faultyBody) Write(p []byte) (int, error) {
	if b.done {
		return b.ResponseWriter.Write(p)
	}
	b.registry.mu.Lock()
	f := b.registry.fault
	hit := f.times > 0 && b.written+int64(len(p)) > f.after
	if hit {
		b.registry.fault.times--
	}
	b.registry.mu.Unlock()
	if !hit {
		n, err := b.ResponseWriter.Write(p)
		b.written += int64(n)
		return n, err
	}
	b.done = true
	head := max(f.after-b.written, 0)
	n, err := b.ResponseWriter.Write(p[:head])
	if err != nil {
		return n, err
	}
	if fl, ok := b.ResponseWriter.(http.Flusher); ok {
		fl.Flush()
	}
	if f.release == nil {
		return n, b.reset()
	}
	close(f.reached)
	<-f.release
	m, err := b.ResponseWriter.Write(p[head:])
	return n + m, err
}

// reset closes the connection with RST, so that the client cannot take the end
// of the stream for the end of the body.
func (b *faultyBody) reset() error {
	hijacker, ok := b.ResponseWriter.(http.Hijacker)
	if !ok {
		return errReset
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
	return errReset
}
