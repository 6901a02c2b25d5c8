package monitor

import (
	"errors"
	"time"
)

// settle writes what is whole in the spools to the log, with flush the
// unfinished lines too, and makes the spools short.
func (p *pump) settle(b *buffers, flush bool) {
	if p.logPath == "" {
		p.skip()
	} else {
		for p.writeBatch(b, flush) {
		}
	}
	p.shorten(b)
}

// skip consumes the spools without a log.
func (p *pump) skip() {
	cur := p.journal.current()
	for i, s := range p.streams {
		if s != nil {
			cur.consumed[i] = s.size
		}
	}
	p.journal.commit(cur)
}

// writeBatch writes one batch and reports whether there may be more.
func (p *pump) writeBatch(b *buffers, flush bool) bool {
	cur := p.journal.current()
	p.mu.Lock()
	next := batch{ends: cur.consumed, time: max(time.Now().UnixNano(), cur.lastTime), first: int64(p.first)}
	p.mu.Unlock()
	if flush {
		next.flush = 1
	}
	out, err := p.encode(b, cur, &next, false)
	if err != nil {
		p.loseSpools(cur, err)
		return false
	}
	if next.ends == cur.consumed {
		return false
	}
	dev, size, err := p.openLog()
	if err == nil {
		next.logDev, next.logIno, next.logSize = dev.dev, dev.ino, size
		p.journal.begin(next)
		err = appendLog(p.logFD, out, size)
	}
	p.commit(cur, next, err)
	return true
}

// commit notes in the journal that a batch was written, or dropped.
func (p *pump) commit(cur progress, b batch, err error) {
	next := cur
	next.consumed, next.lastTime, next.unreported = b.ends, b.time, 0
	if err != nil {
		next.unreported = cur.unreported
		p.drop(&next, b.ends[0]+b.ends[1]-cur.consumed[0]-cur.consumed[1], err)
	} else {
		p.lastError = nil
	}
	p.journal.commit(next)
}

// encode makes the bytes of a batch. The first time it sets the batch's ends,
// again it stops there, and makes the same bytes.
func (p *pump) encode(b *buffers, cur progress, next *batch, again bool) ([]byte, error) {
	p.format.stamp(next.time)
	out := b.out[:0]
	if cur.unreported > 0 {
		out = p.format.dropRecord(out, cur)
	}
	for k := range p.streams {
		i := (int(next.first) + k) % streamCount
		s := p.streams[i]
		if s == nil || s.size == cur.consumed[i] {
			continue
		}
		data, err := s.load(b, cur.consumed[i], inputLimit+p.format.maxLine)
		if err != nil {
			return nil, err
		}
		l := limits{input: len(data), output: outputLimit}
		l.flush = next.flush != 0 && cur.consumed[i]+int64(len(data)) == s.size
		if again {
			l.input, l.output = int(next.ends[i]-cur.consumed[i]), 1<<30
		}
		var n int
		out, n = p.format.format(out, i, data, l)
		next.ends[i] = cur.consumed[i] + int64(n)
	}
	b.out = out
	return out, nil
}

// loseSpools gives up what is in spools that cannot be read.
func (p *pump) loseSpools(cur progress, err error) {
	lost := batch{ends: cur.consumed, time: cur.lastTime}
	for i, s := range p.streams {
		if s != nil {
			lost.ends[i] = s.size
		}
	}
	p.commit(cur, lost, err)
}

// redo completes the batch that a killed monitor had begun.
func (p *pump) redo(b *buffers) {
	next, pending := p.journal.pending()
	if !pending {
		return
	}
	cur := p.journal.current()
	for i, s := range p.streams {
		if s != nil && (next.ends[i] < cur.consumed[i] || next.ends[i] > s.size) {
			p.loseSpools(cur, errors.New("spool and journal do not fit"))
			return
		}
	}
	out, err := p.encode(b, cur, &next, true)
	if err != nil {
		p.loseSpools(cur, err)
		return
	}
	p.commit(cur, next, resumeLog(p.logPath, out, next))
}

// shorten keeps the spools from growing: they may be in memory.
func (p *pump) shorten(b *buffers) {
	for i, s := range p.streams {
		if s == nil || s.size == 0 {
			continue
		}
		cur := p.journal.current()
		tail := s.size - cur.consumed[i]
		limit := int64(idleSpoolSize)
		if s.ready.Load() {
			limit = hotSpoolSize
		}
		if s.size < limit && p.lastError == nil || tail > int64(p.format.maxLine) {
			continue
		}
		if err := p.shortenOne(s, b, cur); err != nil {
			p.noteError(err)
		}
	}
}

func (p *pump) shortenOne(s *stream, b *buffers, cur progress) error {
	i := s.index
	consumed := cur.consumed[i]
	if consumed == s.size {
		if err := s.cut(); err != nil {
			return err
		}
		cur.consumed[i] = 0
		p.journal.commit(cur)
		return nil
	}
	which := 1 - cur.spool[i]
	fd, err := s.moveTail(b, which, consumed)
	if err != nil {
		return err
	}
	cur.consumed[i], cur.spool[i] = 0, which
	p.journal.commit(cur)
	return s.useTail(fd, which, consumed)
}
