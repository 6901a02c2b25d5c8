package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const acceptPause = 100 * time.Millisecond

// A session is one connection to the monitor.
type session struct {
	m    *server
	conn *conn
	// welcome is set when hello is answered, greeted when the events that
	// follow the answer are on their way; m.mu guards both. A caller may be
	// faster with its next call than we are with the events.
	welcome, greeted bool

	// attached counts the goroutine of client.
	attached sync.WaitGroup

	mu    sync.Mutex
	calls map[uint64]context.CancelFunc
	// client is the session's attach, if that is what it is for; ended refuses
	// another.
	client *client
	ended  bool
}

// accept serves connections until the listener is closed.
func (m *server) accept() {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		socket, err := m.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.logger.Warn("connection is not accepted", "error", err)
			select {
			case <-time.After(acceptPause): // no descriptors left, most likely
			case <-m.ctx.Done():
			}
			continue
		}
		if err := checkPeer(socket); err != nil {
			m.logger.Warn("connection is refused", "error", err)
			_ = socket.Close() // nothing was said
			continue
		}
		s := &session{m: m, conn: newConn(socket), calls: map[uint64]context.CancelFunc{}}
		m.mu.Lock()
		m.conns[s] = struct{}{}
		m.armIdleLocked()
		m.mu.Unlock()
		sessions.Go(s.conn.writeLoop)
		sessions.Go(s.run)
	}
}

// checkPeer admits root, and whoever the monitor itself runs as.
func checkPeer(socket *net.UnixConn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("read credentials of peer: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("peer has user id %d", cred.Uid)
	}
	return nil
}

// run reads calls until the connection ends. A create whose caller has gone is
// canceled: nobody would ever know of it.
func (s *session) run() {
	ctx, cancel := context.WithCancel(s.m.ctx)
	var calls sync.WaitGroup
	for {
		msg, err := s.conn.receive()
		if err != nil {
			break
		}
		callCtx, callCancel := context.WithCancel(ctx)
		s.mu.Lock()
		s.calls[msg.Call] = callCancel
		s.mu.Unlock()
		calls.Go(func() {
			s.serve(callCtx, msg)
			s.mu.Lock()
			delete(s.calls, msg.Call)
			s.mu.Unlock()
			callCancel()
		})
	}
	cancel()
	s.conn.close()
	calls.Wait()
	s.dropClient()
	s.conn.rights.drop()
	s.m.mu.Lock()
	delete(s.m.conns, s)
	s.m.armIdleLocked()
	s.m.mu.Unlock()
}

// serve does one call and answers it.
func (s *session) serve(ctx context.Context, msg message) {
	body, fds, err := s.call(ctx, &msg)
	closeFDs(msg.fds)
	answer := message{Call: msg.Call, fds: fds}
	if err == nil {
		answer.Body, err = json.Marshal(body)
	}
	if err != nil {
		answer.Error = toWire(err)
	}
	s.conn.send(answer)
	if msg.Op == opHello && err == nil {
		s.greet()
	}
}

// greet sends the exits that have not been forgotten, and from then on all.
func (s *session) greet() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.greeted = true
	for _, c := range s.m.containers {
		if !c.isSettled() {
			continue
		}
		if state := c.state(); state.Exit != nil {
			raw, err := json.Marshal(Event{ID: state.ID, Process: state.Process, Exit: state.Exit})
			if err == nil {
				s.conn.send(message{Op: eventExit, Body: raw})
			}
		}
	}
}

func (s *session) call(ctx context.Context, msg *message) (body any, fds []int, err error) {
	m := s.m
	switch msg.Op {
	case opHello:
		return s.hello(msg.Body)
	case opUpgrade:
		return s.upgrade(ctx, msg.Body)
	}
	m.mu.Lock()
	welcome := s.welcome
	m.mu.Unlock()
	if !welcome {
		return nil, nil, fmt.Errorf("%w: call before hello", ErrInvalid)
	}
	switch msg.Op {
	case opCreate:
		return s.create(ctx, msg.Body)
	case opExec:
		body, err = s.exec(ctx, msg.Body, msg.fds)
		return body, nil, err
	case opRelease:
		return struct{}{}, nil, m.release(msg.Body)
	case opCancel:
		return s.cancel(msg.Body)
	case opList:
		return listBody{Containers: m.list()}, nil, nil
	case opShutdown:
		return struct{}{}, nil, m.shutdown()
	}
	id, err := decode[idBody](msg.Body)
	if err != nil {
		return nil, nil, err
	}
	if msg.Op == opForget {
		return struct{}{}, nil, m.forget(ctx, id.ID)
	}
	c, err := m.find(id.ID)
	if err != nil {
		return nil, nil, err
	}
	return s.callContainer(ctx, msg, id, c)
}

// callContainer does the calls that are about one container.
func (s *session) callContainer(ctx context.Context, msg *message, id idBody, c *container) (body any, fds []int, err error) {
	body = struct{}{}
	switch msg.Op {
	case opReopen:
		err = c.reopenLog(ctx)
	case opResize:
		err = c.resize(id.Width, id.Height)
	case opCloseStdin:
		if err = c.closeStdin(); err == nil {
			s.m.broadcast(eventStdinClosed, Event{ID: id.ID})
		}
	case opTTY:
		fds, err = ttyAnswer(c)
	case opAttach:
		fds, err = s.attach(msg.Body, c)
	case opGiveTTY:
		if len(msg.fds) != 1 {
			return nil, nil, fmt.Errorf("%w: %d file descriptors for a terminal", ErrInvalid, len(msg.fds))
		}
		fd := msg.fds[0]
		msg.fds = nil
		err = <-c.setTTY(fd)
	case opAmend:
		err = s.m.amend(id.ID, unix.WaitStatus(id.Status))
	default:
		err = fmt.Errorf("%w: unknown call %q", ErrInvalid, msg.Op)
	}
	return body, fds, err
}

func ttyAnswer(c *container) ([]int, error) {
	fd, err := c.dupTTY()
	if err != nil || fd < 0 {
		return nil, err
	}
	return []int{fd}, nil
}

func (s *session) hello(raw json.RawMessage) (any, []int, error) {
	h, err := decode[helloBody](raw)
	if err != nil {
		return nil, nil, err
	}
	if h.Version != protocolVersion {
		return nil, nil, fmt.Errorf("%w: it has %d, the caller %d", errVersion, protocolVersion, h.Version)
	}
	s.m.mu.Lock()
	s.welcome = true
	s.m.mu.Unlock()
	return helloBody{Version: protocolVersion, PID: os.Getpid()}, nil, nil
}

func (s *session) upgrade(ctx context.Context, raw json.RawMessage) (any, []int, error) {
	u, err := decode[upgradeBody](raw)
	if err != nil {
		return nil, nil, err
	}
	return struct{}{}, nil, s.m.upgrade(ctx, u.Exe)
}

func (s *session) create(ctx context.Context, raw json.RawMessage) (any, []int, error) {
	req, err := decode[CreateRequest](raw)
	if err != nil {
		return nil, nil, err
	}
	result, err := s.m.create(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.m.find(req.ID)
	if errors.Is(err, ErrNotFound) {
		return result, nil, nil // forgotten already
	}
	if err != nil {
		return nil, nil, err
	}
	fds, err := ttyAnswer(c)
	return result, fds, err
}

func (s *session) cancel(raw json.RawMessage) (any, []int, error) {
	b, err := decode[cancelBody](raw)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[b.Call]; cancel != nil {
		cancel()
	}
	return struct{}{}, nil, nil
}
