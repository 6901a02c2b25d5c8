package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// localError is one of this side, and not the daemon's.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// session is one build as the client sees it.
type session struct {
	stream  grpc.BidiStreamingClient[nodev1.BuildRequest, nodev1.BuildResponse]
	plan    *plan
	display display

	send   sync.Mutex // messages go one at a time
	mu     sync.Mutex
	agents map[uint32]net.Conn
	failed error
}

// chunk is how much of a context goes in one message.
const chunk = 256 << 10

// run sends the request and its contexts, and follows the build to its end.
func (s *session) run(ctx context.Context) (*nodev1.BuildResponse_Result, error) {
	s.agents = map[uint32]net.Conn{}
	defer s.hangUp()
	var sending sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	sending.Go(func() {
		if err := s.sendAll(ctx); err != nil {
			s.mu.Lock()
			s.failed = err
			s.mu.Unlock()
			_ = s.stream.CloseSend()
		}
	})
	result, err := s.receive(ctx)
	cancel()
	sending.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	// The daemon's word counts unless it only says that we went.
	if s.failed != nil && !errors.Is(s.failed, io.EOF) && !errors.Is(s.failed, context.Canceled) {
		err = &localError{s.failed}
	}
	s.display.end(err)
	if err2 := s.plan.output.close(err == nil); err == nil && err2 != nil {
		err = &localError{err2}
	}
	return result, err
}

func (s *session) message(m *nodev1.BuildRequest) error {
	s.send.Lock()
	defer s.send.Unlock()
	return s.stream.Send(m)
}

// sendAll sends the request and all contexts.
func (s *session) sendAll(ctx context.Context) error {
	if err := s.message(&nodev1.BuildRequest{Open: s.plan.open}); err != nil {
		return err
	}
	for _, c := range s.plan.contexts {
		w := &contextSender{session: s, name: c.name}
		if err := writeContext(ctx, c, w); err != nil {
			return err
		}
		if err := w.close(); err != nil {
			return err
		}
		s.display.transferred(c.name, w.total)
	}
	return nil
}

// contextSender cuts a tar in messages.
type contextSender struct {
	session *session
	name    string
	buf     []byte
	total   int64
}

func (w *contextSender) Write(p []byte) (int, error) {
	w.total += int64(len(p))
	w.buf = append(w.buf, p...)
	for len(w.buf) >= chunk {
		if err := w.session.message(&nodev1.BuildRequest{ContextName: w.name, Context: w.buf[:chunk]}); err != nil {
			return 0, err
		}
		w.buf = append([]byte(nil), w.buf[chunk:]...)
	}
	return len(p), nil
}

func (w *contextSender) close() error {
	return w.session.message(&nodev1.BuildRequest{ContextName: w.name, Context: w.buf, ContextDone: true})
}

// receive takes what the daemon tells until the result or an error.
func (s *session) receive(ctx context.Context) (*nodev1.BuildResponse_Result, error) {
	var result *nodev1.BuildResponse_Result
	for {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			if result == nil {
				return nil, errors.New("the daemon ended the build without a result")
			}
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		s.display.update(m)
		if len(m.GetOutput()) > 0 {
			if err := s.plan.output.write(m.GetOutput()); err != nil {
				return nil, &localError{err}
			}
		}
		if m.GetAgent() != nil {
			s.agent(ctx, m.GetAgent())
		}
		if m.GetResult() != nil {
			result = m.GetResult()
		}
	}
}

// agent handles bytes of a connection that a step has to an agent here.
func (s *session) agent(ctx context.Context, m *nodev1.AgentData) {
	s.mu.Lock()
	c := s.agents[m.GetConnection()]
	s.mu.Unlock()
	if c == nil && m.GetAgent() != "" {
		socket := s.plan.agents[m.GetAgent()]
		var err error
		if c, err = (&net.Dialer{}).DialContext(ctx, "unix", socket); err != nil || socket == "" {
			_ = s.message(&nodev1.BuildRequest{Agent: &nodev1.AgentData{Connection: m.GetConnection(), Closed: true}})
			return
		}
		s.mu.Lock()
		s.agents[m.GetConnection()] = c
		s.mu.Unlock()
		go s.answer(m.GetConnection(), c) // ends with the connection
	}
	if c == nil {
		return
	}
	if _, err := c.Write(m.GetData()); err != nil || m.GetClosed() {
		s.drop(m.GetConnection())
	}
}

// answer sends what an agent says.
func (s *session) answer(id uint32, c net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if s.message(&nodev1.BuildRequest{Agent: &nodev1.AgentData{Connection: id, Data: append([]byte(nil), buf[:n]...)}}) != nil {
				break
			}
		}
		if err != nil {
			_ = s.message(&nodev1.BuildRequest{Agent: &nodev1.AgentData{Connection: id, Closed: true}})
			break
		}
	}
	s.drop(id)
}

func (s *session) drop(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.agents[id]; c != nil {
		_ = c.Close() // nothing is left to be written
		delete(s.agents, id)
	}
}

func (s *session) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.agents {
		_ = c.Close() // nothing is left to be written
		delete(s.agents, id)
	}
}

// human is a number of bytes as BuildKit writes it.
func human(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	value, suffix := float64(n)/unit, "kB"
	for _, next := range []string{"MB", "GB", "TB"} {
		if value < unit {
			break
		}
		value, suffix = value/unit, next
	}
	return fmt.Sprintf("%.2f%s", value, suffix)
}
