package linux

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// restTime is how long after the last work a process is taken to be at rest, and
// busyTime how often it gives back pages of the program while it works, where the
// kernel maps many for each that is touched.
const (
	restTime = 5 * time.Second
	busyTime = 2 * time.Second
)

// A Shrinker keeps a process small, and makes it smaller when it comes to rest:
// whoever owns it calls Shrink when it is Due. At rest there is no timer.
type Shrinker struct {
	timer *time.Timer
	// armed: the timer runs. worked says that there may be memory to free, and
	// not only pages of the program that a collection has looked at.
	armed, worked, stopped atomic.Bool
	// exact: the kernel maps the pages of the program that are touched, and no
	// others, which Shrink has tried to get once.
	exact atomic.Bool
	tried bool
	// last is when there was work, since the beginning.
	last  atomic.Int64
	begin time.Time
}

// NewShrinker returns one that takes what has been so far, the start of the
// process, for work, and is due at once: to initialise the process has touched
// more of the program than any work will, so its owner shrinks it when it begins
// to serve. Stop ends it.
func NewShrinker() *Shrinker {
	s := newShrinker()
	s.watch()
	return s
}

func newShrinker() *Shrinker {
	s := &Shrinker{timer: time.NewTimer(0), begin: time.Now()}
	s.armed.Store(true)
	s.worked.Store(true)
	return s
}

// watch makes s due after each collection as well, of which there is one every
// two minutes at rest: it looks at tables all over the program. Where pages are
// mapped one by one, that does not matter.
func (s *Shrinker) watch() {
	type sentinel struct{ _ *byte }
	runtime.AddCleanup(&sentinel{}, func(s *Shrinker) {
		if !s.stopped.Load() && !s.exact.Load() {
			s.arm()
			s.watch()
		}
	}, s)
}

// arm makes s due in a while, unless it will be anyway.
func (s *Shrinker) arm() {
	if !s.armed.Swap(true) {
		s.timer.Reset(busyTime)
	}
}

// Worked says that something was done that needed more memory than rest does. Any
// goroutine may call it; it costs next to nothing.
func (s *Shrinker) Worked() {
	s.last.Store(int64(time.Since(s.begin)))
	s.worked.Store(true)
	s.arm()
}

// Due gets a value now and then while there is work, and once when there was none
// for a while.
func (s *Shrinker) Due() <-chan time.Time { return s.timer.C }

// Stop ends the timer.
func (s *Shrinker) Stop() {
	s.stopped.Store(true)
	s.timer.Stop()
}

// Shrink gives back the pages of the program that are mapped and, when the work is
// over, the memory that it needed and rest does not: the free part of the heap.
// Where the kernel maps no page but those that are touched, they stay for as long
// as there is work.
func (s *Shrinker) Shrink() error {
	if s.rested() {
		debug.FreeOSMemory()
	} else if s.exact.Load() {
		return nil
	}
	program, err := ownProgram()
	if err != nil {
		return err
	}
	if !s.tried {
		s.tried = true
		s.exact.Store(mapExactly(program) == nil) // what it is an error without is no loss
	}
	return release(program)
}

// rested says once that the work is over; while it is not, it makes s due again.
func (s *Shrinker) rested() bool {
	s.armed.Store(false)
	switch since := time.Since(s.begin) - time.Duration(s.last.Load()); {
	case !s.worked.Load():
		return false
	case since < restTime:
		s.arm()
		return false
	}
	return s.worked.Swap(false)
}
