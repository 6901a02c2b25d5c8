package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/build"
	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// buildStream is the connection to the client of a build.
type buildStream = grpc.BidiStreamingServer[nodev1.BuildRequest, nodev1.BuildResponse]

// maxQueue is how many bytes may wait for a client: then what builds waits too.
const maxQueue = 4 << 20

// buildSender sends what happens to the client, in one goroutine, so that no
// step waits for the network.
type buildSender struct {
	stream buildStream
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu     sync.Mutex
	room   sync.Cond // or something to send
	queue  []*nodev1.BuildResponse
	bytes  int
	closed bool
	err    error
}

func newBuildSender(stream buildStream, cancel context.CancelCauseFunc) *buildSender {
	s := &buildSender{stream: stream, cancel: cancel, done: make(chan struct{})}
	s.room.L = &s.mu
	go s.run()
	return s
}

// run sends until close.
func (s *buildSender) run() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed {
			s.room.Wait()
		}
		batch := s.queue
		s.queue, s.bytes = nil, 0
		s.room.Broadcast()
		closed := s.closed
		s.mu.Unlock()
		for _, m := range batch {
			if err := s.stream.Send(m); err != nil {
				s.mu.Lock()
				s.err = err
				s.room.Broadcast()
				s.mu.Unlock()
				s.cancel(fmt.Errorf("tell the client of a build: %w", err))
				return
			}
		}
		if closed && len(batch) == 0 {
			return
		}
	}
}

// send queues a message of about size bytes.
func (s *buildSender) send(m *nodev1.BuildResponse, size int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes > maxQueue && s.err == nil {
		s.room.Wait()
	}
	if s.err != nil {
		return s.err
	}
	s.queue = append(s.queue, m)
	s.bytes += size + 64
	s.room.Broadcast()
	return nil
}

// close sends what is queued and ends.
func (s *buildSender) close() {
	s.mu.Lock()
	s.closed = true
	s.room.Broadcast()
	s.mu.Unlock()
	<-s.done // a client that cannot be told has gone
}

// Step implements build.Events.
func (s *buildSender) Step(step build.Step) {
	m := &nodev1.Step{Id: step.ID, Name: step.Name, Cached: step.Cached, Error: step.Error, Inputs: step.Inputs, StartedAt: step.Started.UnixNano()}
	if !step.Completed.IsZero() {
		m.CompletedAt = step.Completed.UnixNano()
	}
	_ = s.send(&nodev1.BuildResponse{Steps: []*nodev1.Step{m}}, len(step.Name)+len(step.Error))
}

// Log implements build.Events.
func (s *buildSender) Log(step string, stream int, data []byte) {
	_ = s.send(&nodev1.BuildResponse{Logs: []*nodev1.StepLog{{Step: step, Stream: uint32(stream), Data: data}}}, len(data)) //nolint:gosec // 1 or 2
}

// Progress implements build.Events.
func (s *buildSender) Progress(step, name string, current, total int64) {
	_ = s.send(&nodev1.BuildResponse{Progress: []*nodev1.StepProgress{{Step: step, Name: name, Current: current, Total: total}}}, len(name))
}

// Warn implements build.Events.
func (s *buildSender) Warn(text string) {
	_ = s.send(&nodev1.BuildResponse{Warnings: []string{text}}, len(text))
}

// Write sends output that the client asked for.
func (s *buildSender) Write(p []byte) (int, error) {
	if err := s.send(&nodev1.BuildResponse{Output: append([]byte(nil), p...)}, len(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *buildSender) result(r *nodev1.BuildResponse_Result) {
	_ = s.send(&nodev1.BuildResponse{Result: r}, 0)
}

// buildReceiver takes what the client sends: contexts, then the bytes of its
// agents.
type buildReceiver struct {
	stream   buildStream
	out      *buildSender
	complete chan struct{} // closed when all contexts are there

	mu     sync.Mutex
	next   uint32
	agents map[uint32]*agentConn
}

func newBuildReceiver(stream buildStream, out *buildSender) *buildReceiver {
	return &buildReceiver{stream: stream, out: out, complete: make(chan struct{}), agents: map[uint32]*agentConn{}}
}

// run receives until the client ends or sends nonsense.
func (r *buildReceiver) run(ctx context.Context, dirs map[string]string) error {
	missing := map[string]bool{}
	for name := range dirs {
		missing[name] = true
	}
	for len(missing) > 0 {
		name, err := r.context(ctx, dirs, missing)
		if err != nil {
			return err
		}
		delete(missing, name)
	}
	close(r.complete)
	defer r.hangUp()
	for {
		m, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil // it has nothing more to say, and still listens
		}
		if err != nil {
			return err
		}
		r.agent(m.GetAgent())
	}
}

// context receives one context, and says which.
func (r *buildReceiver) context(ctx context.Context, dirs map[string]string, missing map[string]bool) (name string, err error) {
	pr, pw := io.Pipe()
	var unpacking sync.WaitGroup
	var unpackErr error
	started := false
	defer func() {
		_ = pw.CloseWithError(errNoContext)
		unpacking.Wait()
		if unpackErr != nil {
			err = unpackErr
		}
	}()
	for {
		m, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errNoContext
		}
		if err != nil {
			return "", err
		}
		if !started {
			started = true
			if name = m.GetContextName(); name == "" {
				name = mainContext
			}
			if !missing[name] {
				return "", fmt.Errorf("context %q: it was not announced, or is there: %w", name, errdefs.ErrInvalidArgument)
			}
			unpacking.Go(func() {
				unpackErr = guard.Call(klog.FromContext(ctx), "the unpacking of a context", func() error {
					return build.Extract(ctx, pr, dirs[name])
				})
				_ = pr.CloseWithError(unpackErr)
			})
		}
		if _, err := pw.Write(m.GetContext()); err != nil && len(m.GetContext()) > 0 && !errors.Is(err, io.ErrClosedPipe) {
			return "", err
		}
		if m.GetContextDone() {
			return name, pw.Close()
		}
	}
}

// agentConn is one connection of a step to an agent of the client.
type agentConn struct {
	near net.Conn // ours
	in   chan []byte
	once sync.Once
}

func (c *agentConn) close() { c.once.Do(func() { close(c.in) }) }

// dial connects with an agent of the client. The connection ends with ctx.
func (r *buildReceiver) dial(ctx context.Context, agent string) (net.Conn, error) {
	far, near := net.Pipe()
	c := &agentConn{near: near, in: make(chan []byte, 64)}
	r.mu.Lock()
	r.next++
	id := r.next
	r.agents[id] = c
	r.mu.Unlock()
	if err := r.out.send(&nodev1.BuildResponse{Agent: &nodev1.AgentData{Connection: id, Agent: agent}}, 0); err != nil {
		r.drop(id)
		return nil, errors.Join(err, far.Close(), near.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = errors.Join(far.Close(), near.Close()) })
	go func() { // ends with the connection
		for b := range c.in {
			if _, err := near.Write(b); err != nil {
				break
			}
		}
		_ = near.Close()
	}()
	go func() { // ends with the connection
		defer stop() // one step may make very many connections
		buf := make([]byte, 32<<10)
		for {
			n, err := near.Read(buf)
			if n > 0 {
				_ = r.out.send(&nodev1.BuildResponse{Agent: &nodev1.AgentData{Connection: id, Data: append([]byte(nil), buf[:n]...)}}, n)
			}
			if err != nil {
				_ = r.out.send(&nodev1.BuildResponse{Agent: &nodev1.AgentData{Connection: id, Closed: true}}, 0)
				r.drop(id)
				return
			}
		}
	}()
	return far, nil
}

// agent hands on what an agent has answered. A step that does not read it loses
// its connection.
func (r *buildReceiver) agent(m *nodev1.AgentData) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.agents[m.GetConnection()]
	if m == nil || c == nil {
		return
	}
	if len(m.GetData()) > 0 {
		select {
		case c.in <- m.GetData():
		default:
			_ = c.near.Close()
		}
	}
	if m.GetClosed() {
		delete(r.agents, m.GetConnection())
		c.close()
	}
}

func (r *buildReceiver) drop(id uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.agents[id]; c != nil {
		delete(r.agents, id)
		c.close()
	}
}

// hangUp ends all connections.
func (r *buildReceiver) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.agents {
		delete(r.agents, id)
		c.close()
	}
}
