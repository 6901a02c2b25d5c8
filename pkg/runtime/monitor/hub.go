package monitor

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A client that has more than highWater to get is waited for until it has
	// less than lowWater: no longer than stallTime if it takes nothing, and
	// than slowTime in any case. Then it is dropped.
	highWater = clientLimit - 512<<10
	lowWater  = clientLimit / 2
	stallTime = 500 * time.Millisecond
	slowTime  = 2 * time.Second
	// clientLimit is how far a client may fall behind, clientsLimit the memory
	// that all that fall behind may use together.
	clientLimit  = 4 << 20
	clientsLimit = 32 << 20
	// Memory for output comes in blocks of these sizes.
	smallBlock = 4 << 10
	largeBlock = 64 << 10
)

// A hub shows a container's output to its attached clients. The pump publishes,
// each client takes from the backlog at its own pace, and one that is too far
// behind is dropped. A container can write faster than any client can read, so
// before that the pump waits a moment; one that reads gets everything, and one
// that does not costs the container that moment, once. What many clients have
// to get is kept once. Without clients there is no backlog.
type hub struct {
	all *hubs
	// wanted counts the clients of each stream.
	wanted [streamCount]atomic.Int32

	mu       sync.Mutex
	backlogs [streamCount]backlog
	clients  map[*client]struct{}
	closed   bool
	// room is told when a client is not far behind any more.
	room chan struct{}
	// done is closed when there will be no more output.
	done chan struct{}
}

// hubs are all that have clients, and what their backlogs use. A hub's lock is
// taken before this one.
type hubs struct {
	used atomic.Int64
	mu   sync.Mutex
	set  map[*hub]struct{}
}

func newHub(all *hubs) *hub {
	return &hub{all: all, clients: map[*client]struct{}{}, done: make(chan struct{}), room: make(chan struct{}, 1)}
}

// join shows a client the output from now on.
func (h *hub) join(c *client) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("attach: %w: it has exited", ErrState)
	}
	if len(h.clients) == 0 {
		h.all.mu.Lock()
		h.all.set[h] = struct{}{}
		h.all.mu.Unlock()
	}
	h.clients[c] = struct{}{}
	for i, o := range c.outputs {
		if o != nil {
			o.offset = h.backlogs[i].end
			h.wanted[i].Add(1)
		}
	}
	return nil
}

// drop makes a client leave, with the error that it is told; nil for one that
// has all it wanted. Only the first reason counts.
func (h *hub) drop(c *client, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(c, reason)
}

func (h *hub) dropLocked(c *client, reason error) {
	if _, ok := h.clients[c]; !ok {
		return
	}
	delete(h.clients, c)
	c.reason = reason
	close(c.dropped)
	for i, o := range c.outputs {
		if o != nil {
			h.unwantLocked(i, o)
		}
	}
	if len(h.clients) == 0 {
		h.all.mu.Lock()
		delete(h.all.set, h)
		h.all.mu.Unlock()
	}
}

// fail drops everybody, because output is missing.
func (h *hub) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		h.dropLocked(c, err)
	}
}

// unwant ends one stream of a client.
func (h *hub) unwant(stream int, o *clientOutput) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unwantLocked(stream, o)
}

func (h *hub) unwantLocked(stream int, o *clientOutput) {
	if o.gone {
		return
	}
	o.gone = true
	_ = o.conn.Close() // a Write under way ends; nobody wants its bytes
	o.signal()
	h.signal()
	h.wanted[stream].Add(-1)
	h.trimLocked(stream)
}

func (h *hub) signal() {
	select {
	case h.room <- struct{}{}:
	default:
	}
}

// publish shows output, which it copies, to those who want it, and waits for
// those who are far behind if it may.
func (h *hub) publish(stream int, p []byte, mayWait bool) {
	if h.wanted[stream].Load() == 0 {
		return
	}
	h.mu.Lock()
	behind := false
	b := &h.backlogs[stream]
	h.all.used.Add(b.append(p))
	for c := range h.clients {
		o := c.outputs[stream]
		if o == nil || o.gone {
			continue
		}
		lag := b.end - o.offset
		if lag > clientLimit {
			h.dropLocked(c, fmt.Errorf("%w: %d bytes wait for it", ErrSlow, lag))
			continue
		}
		behind = behind || lag > highWater
		o.signal()
	}
	h.trimLocked(stream) // they may all have been dropped
	h.mu.Unlock()
	if h.all.used.Load() > clientsLimit {
		h.all.relieve()
	}
	if behind && mayWait {
		h.wait(stream)
	}
}

// wait gives those who are far behind time to read.
func (h *hub) wait(stream int) {
	stall, slow := time.NewTicker(stallTime), time.NewTimer(slowTime)
	defer stall.Stop()
	defer slow.Stop()
	taken := map[*client]int64{}
	if !h.stillBehind(stream, func(c *client, o *clientOutput) { taken[c] = o.offset }) {
		return
	}
	for {
		select {
		case <-h.room:
			if !h.stillBehind(stream, func(*client, *clientOutput) {}) {
				return
			}
		case <-stall.C:
			h.stillBehind(stream, func(c *client, o *clientOutput) {
				if before, ok := taken[c]; ok && before == o.offset {
					h.dropLocked(c, fmt.Errorf("%w: %d bytes wait for it", ErrSlow, h.backlogs[stream].end-o.offset))
				}
				taken[c] = o.offset
			})
		case <-slow.C:
			h.stillBehind(stream, func(c *client, o *clientOutput) {
				h.dropLocked(c, fmt.Errorf("%w: %d bytes wait for it", ErrSlow, h.backlogs[stream].end-o.offset))
			})
			return
		}
	}
}

// stillBehind calls f, with h.mu held, for each client that is far behind, and
// reports whether there was one.
func (h *hub) stillBehind(stream int, f func(*client, *clientOutput)) (some bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		o := c.outputs[stream]
		if o != nil && !o.gone && h.backlogs[stream].end-o.offset > lowWater {
			some = true
			f(c, o)
		}
	}
	return some
}

// next returns what a client has to get, nothing if there is nothing now, and
// whether there will be more.
func (h *hub) next(stream int, o *clientOutput) (p []byte, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.gone {
		return nil, false
	}
	p = h.backlogs[stream].at(o.offset)
	return p, len(p) > 0 || !h.closed
}

// advance notes what a client has got.
func (h *hub) advance(stream int, o *clientOutput, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before := h.backlogs[stream].end - o.offset; before > lowWater && before-int64(n) <= lowWater {
		h.signal()
	}
	o.offset += int64(n)
	h.trimLocked(stream)
}

// trimLocked frees what every client has got.
func (h *hub) trimLocked(stream int) {
	b := &h.backlogs[stream]
	if len(b.blocks) == 0 {
		return
	}
	low := b.end
	for c := range h.clients {
		if o := c.outputs[stream]; o != nil && !o.gone {
			low = min(low, o.offset)
		}
	}
	h.all.used.Add(-b.trim(low))
}

// close says that the output is complete. Clients get what is left at their
// own pace, and nobody waits for them.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	close(h.done)
	for c := range h.clients {
		for _, o := range c.outputs {
			if o != nil && !o.gone {
				o.hurry()
				o.signal()
			}
		}
	}
}

// lag is the client that is the farthest behind, and how far.
func (h *hub) lag() (worst *client, most int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		var behind int64
		for i, o := range c.outputs {
			if o != nil && !o.gone {
				behind += h.backlogs[i].end - o.offset
			}
		}
		if behind > most {
			worst, most = c, behind
		}
	}
	return worst, most
}

// relieve drops those that are the farthest behind until memory suffices.
func (a *hubs) relieve() {
	for a.used.Load() > clientsLimit {
		a.mu.Lock()
		all := make([]*hub, 0, len(a.set))
		for h := range a.set {
			all = append(all, h)
		}
		a.mu.Unlock()
		var at *hub
		var worst *client
		var most int64
		for _, h := range all {
			if c, lag := h.lag(); lag > most {
				at, worst, most = h, c, lag
			}
		}
		if worst == nil {
			return
		}
		at.drop(worst, fmt.Errorf("%w: %d bytes wait for it and many clients wait for theirs", ErrSlow, most))
	}
}

// A backlog is a stretch of a stream's output, from its first block to end,
// counted from the monitor's start.
type backlog struct {
	blocks []block
	end    int64
}

type block struct {
	start int64
	data  []byte
}

// append copies p to the end and returns how much memory that took. Bytes that
// a client is being sent never move.
func (b *backlog) append(p []byte) (used int64) {
	for len(p) > 0 {
		size := min(len(p), largeBlock)
		if n := len(b.blocks); n > 0 {
			last := &b.blocks[n-1].data
			room := min(cap(*last)-len(*last), len(p))
			*last = append(*last, p[:room]...)
			p, b.end = p[room:], b.end+int64(room)
			size = min(max(len(p), smallBlock), largeBlock)
		}
		if len(p) == 0 {
			break
		}
		b.blocks = append(b.blocks, block{start: b.end, data: make([]byte, 0, size)})
		used += int64(size)
	}
	return used
}

// at returns what the block of an offset has from there on.
func (b *backlog) at(offset int64) []byte {
	i := sort.Search(len(b.blocks), func(i int) bool { return b.blocks[i].start > offset }) - 1
	if i < 0 {
		return nil
	}
	data := b.blocks[i].data
	return data[min(offset-b.blocks[i].start, int64(len(data))):]
}

// trim frees the blocks before an offset and returns how much memory they took.
func (b *backlog) trim(offset int64) (freed int64) {
	n := 0
	for n < len(b.blocks) && b.blocks[n].start+int64(len(b.blocks[n].data)) <= offset {
		freed += int64(cap(b.blocks[n].data))
		b.blocks[n].data = nil
		n++
	}
	b.blocks = b.blocks[n:]
	if len(b.blocks) == 0 {
		b.blocks = nil
	}
	return freed
}
