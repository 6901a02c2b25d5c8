package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// A link is one connection to a monitor. Two goroutines serve it, which close
// waits for.
type link struct {
	conn *conn
	pid  int
	// onEvent is called from the reading goroutine and must not block.
	onEvent func(message)
	// lost is closed when the connection has broken, after err is set.
	lost chan struct{}
	err  error
	wait sync.WaitGroup

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan message
}

// dial connects to the socket and does nothing else.
func dial(dir string, onEvent func(message)) (*link, error) {
	socket, err := dialUnix(filepath.Join(dir, socketName))
	if err != nil {
		return nil, err
	}
	l := &link{conn: newConn(socket), onEvent: onEvent, lost: make(chan struct{}), calls: map[uint64]chan message{}}
	l.wait.Go(l.conn.writeLoop)
	l.wait.Go(l.read)
	return l, nil
}

// read hands answers to their callers until the connection breaks.
func (l *link) read() {
	for {
		m, err := l.conn.receive()
		if err != nil {
			l.err = err
			break
		}
		if m.Call == 0 {
			closeFDs(m.fds)
			l.onEvent(m)
			continue
		}
		l.mu.Lock()
		answer := l.calls[m.Call]
		delete(l.calls, m.Call)
		l.mu.Unlock()
		if answer == nil {
			closeFDs(m.fds) // the caller has gone
			continue
		}
		answer <- m
	}
	close(l.lost)
	l.conn.close()
	l.conn.rights.drop()
}

func (l *link) close() {
	l.conn.close()
	l.wait.Wait()
}

// begin sends a call; the answer comes to the channel.
func (l *link) begin(op string, body any, fds []int) (uint64, chan message, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		closeFDs(fds)
		return 0, nil, err
	}
	answer := make(chan message, 1)
	l.mu.Lock()
	l.next++
	id := l.next
	l.calls[id] = answer
	l.mu.Unlock()
	l.conn.send(message{Call: id, Op: op, Body: raw, fds: fds})
	return id, answer, nil
}

// await waits for an answer.
func (l *link) await(ctx context.Context, id uint64, answer chan message) (message, error) {
	select {
	case m := <-answer:
		return checkAnswer(m)
	case <-l.lost:
		select {
		case m := <-answer: // it came before the end
			return checkAnswer(m)
		default:
			return message{}, fmt.Errorf("%w: %w", ErrMonitorLost, l.err)
		}
	case <-ctx.Done():
		l.mu.Lock()
		_, pending := l.calls[id]
		delete(l.calls, id)
		l.mu.Unlock()
		if !pending { // it is coming right now
			return checkAnswer(<-answer)
		}
		return message{}, ctx.Err()
	}
}

func checkAnswer(m message) (message, error) {
	if m.Error != nil {
		closeFDs(m.fds)
		return message{}, fromWire(m.Error)
	}
	return m, nil
}

// call does one call whose answer brings no descriptors.
func call[T any](ctx context.Context, l *link, op string, body any) (result T, err error) {
	id, answer, err := l.begin(op, body, nil)
	if err != nil {
		return result, err
	}
	m, err := l.await(ctx, id, answer)
	if err != nil {
		return result, err
	}
	closeFDs(m.fds)
	return decode[T](m.Body)
}

// callCancel does one call that, when ctx ends, is canceled and still awaited,
// so that the caller knows how it ended.
func (l *link) callCancel(ctx context.Context, op string, body any) (message, error) {
	return l.callCancelFDs(ctx, op, body, nil)
}

// callCancelFDs also takes descriptors along, and ownership of them.
func (l *link) callCancelFDs(ctx context.Context, op string, body any, fds []int) (message, error) {
	id, answer, err := l.begin(op, body, fds)
	if err != nil {
		return message{}, err
	}
	select {
	case <-ctx.Done():
	case <-l.lost:
	case m := <-answer:
		return checkAnswer(m)
	}
	cause := ctx.Err()
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer stop()
	if cause != nil {
		cancelID, sent, err := l.begin(opCancel, cancelBody{Call: id}, nil)
		if err == nil {
			_, err = l.await(late, cancelID, sent)
		}
		if err != nil {
			return message{}, errors.Join(cause, err)
		}
	}
	m, err := l.await(late, id, answer)
	if err != nil && cause != nil {
		return message{}, fmt.Errorf("%w: %w", cause, err)
	}
	return m, err
}

// connect gets a link to a monitor of this version, starting or upgrading one
// where needed, and brings it what only we hold.
func (s *Supervisor) connect(ctx context.Context) (*link, error) {
	l, err := s.greet(ctx)
	switch {
	case errors.Is(err, errVersion):
		if err := s.replace(ctx); err != nil {
			return nil, err
		}
		l, err = s.greet(ctx)
	case err != nil && ctx.Err() == nil:
		if err := s.child.spawn(ctx, s.cfg); err != nil {
			return nil, err
		}
		l, err = s.greet(ctx)
	}
	if err != nil {
		return nil, err
	}
	if elsewhere(l.pid) {
		if l, err = s.fetchHome(ctx, l); err != nil {
			return nil, err
		}
	}
	if err := s.exchange(ctx, l); err != nil {
		l.close()
		return nil, err
	}
	if s.child.process != nil && s.child.process.Pid != l.pid {
		s.child.reap() // ours has died and somebody else started this one
	}
	return l, nil
}

// elsewhere reports whether a process is known to be in another mount namespace
// than this one, mount_namespaces(7).
func elsewhere(pid int) bool {
	ours, err := os.Stat("/proc/thread-self/ns/mnt")
	if err != nil {
		return false
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return err == nil && !os.SameFile(ours, theirs)
}

// fetchHome puts a monitor of this mount namespace in the place of one of another,
// which would see nothing of what is mounted for new containers. That cannot be
// done where the old one has containers; then the daemon is in the wrong place.
func (s *Supervisor) fetchHome(ctx context.Context, l *link) (*link, error) {
	pid := l.pid
	_, err := call[struct{}](ctx, l, opShutdown, struct{}{})
	l.close()
	if err != nil && !errors.Is(err, ErrMonitorLost) { // it may be faster than its answer
		return nil, fmt.Errorf("the monitor of the containers that run (process %d) is in another mount namespace, where it does not see"+
			" what is mounted for new ones: start the daemon in the same, as with nsenter --mount --target %d (%w)", pid, pid, err)
	}
	if err := s.child.spawn(ctx, s.cfg); err != nil {
		return nil, err
	}
	return s.greet(ctx)
}

// greet connects and says hello.
func (s *Supervisor) greet(ctx context.Context) (*link, error) {
	l, err := dial(s.cfg.Dir, s.handle)
	if err != nil {
		return nil, err
	}
	hello, err := call[helloBody](ctx, l, opHello, helloBody{Version: protocolVersion})
	if err != nil {
		l.close()
		return nil, err
	}
	l.pid = hello.PID
	return l, nil
}

// replace puts our binary in the place of a monitor of another version.
func (s *Supervisor) replace(ctx context.Context) error {
	l, err := dial(s.cfg.Dir, s.handle)
	if err != nil {
		return err
	}
	defer l.close()
	_, err = call[struct{}](ctx, l, opUpgrade, upgradeBody{Exe: s.upgradeExe()})
	if errors.Is(err, ErrMonitorLost) {
		return nil // as it should be: the connection ends with the old binary
	}
	return fmt.Errorf("upgrade monitor: %w", err)
}

// upgradeExe names our binary so that another process finds it.
func (s *Supervisor) upgradeExe() string {
	if s.cfg.Exe != "/proc/self/exe" {
		return s.cfg.Exe
	}
	return fmt.Sprintf("/proc/%d/exe", os.Getpid())
}

// handle takes an event from a link.
func (s *Supervisor) handle(m message) {
	e, err := decode[Event](m.Body)
	if err != nil {
		s.cfg.Logger.Error("event is not understood", "error", err)
		return
	}
	switch m.Op {
	case eventExit:
		s.events.put(e)
	case eventStdinClosed:
		s.holds.closeStdin(e.ID)
	}
}

// exchange holds what the monitor's containers need to survive it, and gives a
// new monitor the terminals that the old one took along.
func (s *Supervisor) exchange(ctx context.Context, l *link) error {
	list, err := call[listBody](ctx, l, opList, struct{}{})
	if err != nil {
		return err
	}
	for _, c := range list.Containers {
		if c.Exit != nil {
			continue
		}
		var fds []int
		if c.TTY {
			if fds, err = s.exchangeTTY(ctx, l, c.ID); err != nil {
				return err
			}
		}
		s.holds.hold(c, fds)
	}
	return nil
}

func (s *Supervisor) exchangeTTY(ctx context.Context, l *link, id string) ([]int, error) {
	if fd := s.holds.dupTTY(id); fd >= 0 {
		call, answer, err := l.begin(opGiveTTY, idBody{ID: id}, []int{fd})
		if err == nil {
			_, err = l.await(ctx, call, answer)
		}
		if err != nil && !errors.Is(err, ErrState) && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		return nil, nil
	}
	call, answer, err := l.begin(opTTY, idBody{ID: id}, nil)
	if err != nil {
		return nil, err
	}
	m, err := l.await(ctx, call, answer)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return m.fds, err
}
