package monitor

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	inputLimit  = 128 << 10
	outputLimit = 256 << 10
	// drainTime is how long output may still come from others after a
	// container's init has exited.
	drainTime = 2 * time.Second
)

// A pump moves one container's output from its sources through the spools into
// the log. It has a goroutine only while there is something to do:
//
//	IDLE --wake--> RUNNING --nothing left--> IDLE
//	               RUNNING --finish, all read--> CLOSED
//
// Everything but mu's fields belongs to that goroutine; others hand it
// functions through do.
type pump struct {
	logPath string
	format  formatter
	streams [streamCount]*stream // stderr is nil for a terminal
	journal *journal
	hub     *hub
	poller  *poller
	pool    *bufferPool
	logger  *slog.Logger

	logFD int // -1 where the log is not open
	// held keeps the output in the spools until the container is created.
	held      bool
	finishing bool
	expired   bool
	lastError error

	mu       sync.Mutex
	phase    pumpPhase
	again    bool
	first    int
	commands []func(*buffers)
	closed   chan struct{}
}

type pumpPhase int

const (
	pumpIdle pumpPhase = iota
	pumpRunning
	pumpClosed
)

// wake is the poller's call: a stream may have something.
func (p *pump) wake(stream int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[stream].ready.Store(true)
	if p.phase == pumpIdle {
		// epoll reports in order of arrival, so this one wrote first.
		p.first = stream
	}
	p.startLocked()
}

func (p *pump) startLocked() {
	switch p.phase {
	case pumpIdle:
		p.phase = pumpRunning
		go p.run()
	case pumpRunning:
		p.again = true
	case pumpClosed:
	}
}

// do has f run between two batches. It reports false, and f never runs, where
// the pump is closed.
func (p *pump) do(f func(*buffers)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == pumpClosed {
		return false
	}
	p.commands = append(p.commands, f)
	p.startLocked()
	return true
}

// run is the goroutine of a pump that has something to do.
func (p *pump) run() {
	b := p.pool.get()
	defer p.pool.put(b)
	for {
		p.runCommands(b)
		moved := p.take(b)
		if !p.held {
			p.settle(b, false)
		}
		if p.finishing && (p.expired || (!moved && p.allRead())) {
			p.settle(b, true)
			p.close()
			return
		}
		if !moved && p.rest() {
			return
		}
	}
}

func (p *pump) runCommands(b *buffers) {
	p.mu.Lock()
	commands := p.commands
	p.commands, p.again = nil, false
	p.mu.Unlock()
	for _, f := range commands {
		f(b)
	}
}

// rest ends the goroutine unless something has come up meanwhile.
func (p *pump) rest() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.again || len(p.commands) > 0 {
		return false
	}
	p.phase = pumpIdle
	return true
}

func (p *pump) allRead() bool {
	for _, s := range p.streams {
		if s != nil && !s.eof {
			return false
		}
	}
	return true
}

// take moves what one turn allows from the sources to the spools, which keeps
// a container that floods its log from starving the others.
func (p *pump) take(b *buffers) (moved bool) {
	p.mu.Lock()
	first := p.first
	p.mu.Unlock()
	for i := range p.streams {
		s := p.streams[(first+i)%streamCount]
		if s == nil || s.eof || (p.held && s.size >= maxHeld) {
			continue
		}
		if s.source < 0 {
			s.eof = p.finishing
			continue
		}
		if s.ready.Swap(false) && p.takeFrom(s, b) {
			s.ready.Store(true)
			moved = true
		}
	}
	return moved
}

// takeFrom reports whether the stream may have more.
func (p *pump) takeFrom(s *stream, b *buffers) bool {
	n, err := p.fill(s, b)
	switch {
	case err == nil && n > 0:
		return true
	case errors.Is(err, unix.EAGAIN):
		return false
	case err == nil || errors.Is(err, unix.EIO) && s.tty:
		// No writer now. Before the exit another may still open it.
		s.eof = p.finishing
		return false
	case p.held:
		return false
	default:
		return p.bypass(s, b, err)
	}
}

func (p *pump) fill(s *stream, b *buffers) (int64, error) {
	if p.logPath == "" && !p.held {
		n, err := s.discard(b)
		p.hub.publish(s.index, b.in[:n], !p.finishing)
		return n, err
	}
	n, err := s.fill(b)
	p.show(s, b, n)
	return n, err
}

// show gives attached clients what was just taken into the spool.
func (p *pump) show(s *stream, b *buffers, n int64) {
	if n <= 0 || p.hub.wanted[s.index].Load() == 0 {
		return
	}
	data, err := s.load(b, s.size-n, int(n))
	if err != nil {
		p.hub.fail(err)
		return
	}
	p.hub.publish(s.index, data, !p.finishing)
}

// bypass is for a spool that takes nothing more, most likely because its disk
// is full: the container must not wait for it. The spool is emptied, and what
// still does not fit goes to the log directly.
func (p *pump) bypass(s *stream, b *buffers, cause error) bool {
	p.settle(b, true)
	if n, err := s.fill(b); err == nil {
		p.show(s, b, n)
		return n > 0
	}
	data := b.input(pipeSize)
	n, err := read(s.source, data)
	if err != nil || n == 0 {
		return false
	}
	p.hub.publish(s.index, data[:n], !p.finishing)
	p.noteError(cause)
	cur := p.journal.current()
	now := max(time.Now().UnixNano(), cur.lastTime)
	p.format.stamp(now)
	out, _ := p.format.format(b.out[:0], s.index, data[:n], limits{input: n, output: 1 << 30, flush: true})
	b.out = out
	cur.lastTime = now
	_, size, err := p.openLog()
	if err == nil {
		err = appendLog(p.logFD, out, size)
	}
	if err != nil {
		p.drop(&cur, int64(n), err)
	}
	p.journal.commit(cur)
	return true
}

// drop counts output that did not reach the log.
func (p *pump) drop(next *progress, n int64, err error) {
	next.dropped += n
	next.unreported += n
	next.errno = int64(errnoOf(err))
	p.noteError(err)
}

// noteError logs an error once, not for each batch.
func (p *pump) noteError(err error) {
	if p.lastError == nil || p.lastError.Error() != err.Error() {
		p.logger.Warn("container log is not written", "log", p.logPath, "error", err)
	}
	p.lastError = err
}

type fileID struct{ dev, ino uint64 }

// openLog opens the log if it is not open and tells which file it is and its
// size.
func (p *pump) openLog() (fileID, int64, error) {
	if p.logFD < 0 {
		fd, err := openLogFile(p.logPath)
		if err != nil {
			return fileID{}, 0, err
		}
		p.logFD = fd
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.logFD, &st); err != nil {
		return fileID{}, 0, err
	}
	return fileID{st.Dev, st.Ino}, st.Size, nil
}

// close ends the pump; its files can be deleted then.
func (p *pump) close() {
	p.closeStreams()
	closeFD(p.logFD)
	p.logFD = -1
	p.mu.Lock()
	p.phase = pumpClosed
	late := p.commands
	p.commands = nil
	p.mu.Unlock()
	for _, f := range late {
		f(nil) // somebody waits for the answer that it is too late
	}
	p.hub.close()
	close(p.closed)
}
