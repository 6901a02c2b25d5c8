package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// restTime is how long after the last work a process is taken to be at rest, and
// busyTime how often it gives back pages of the program while it works: a burst of
// work touches most of them, each for a moment.
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
	// last is when there was work, since the beginning.
	last  atomic.Int64
	begin time.Time
}

// NewShrinker returns one that takes what has been so far, the start of the
// process, for work. Stop ends it.
func NewShrinker() *Shrinker {
	s := newShrinker()
	s.watch()
	return s
}

func newShrinker() *Shrinker {
	s := &Shrinker{timer: time.NewTimer(busyTime), begin: time.Now()}
	s.armed.Store(true)
	s.worked.Store(true)
	return s
}

// watch makes s due after each collection as well, of which there is one every
// two minutes at rest: it looks at tables all over the program.
func (s *Shrinker) watch() {
	type sentinel struct{ _ *byte }
	runtime.AddCleanup(&sentinel{}, func(s *Shrinker) {
		if !s.stopped.Load() {
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

// Shrink gives back the pages of the program that were touched and, when the work
// is over, the memory that it needed and rest does not: the free part of the heap.
func (s *Shrinker) Shrink() error {
	if s.rested() {
		debug.FreeOSMemory()
	}
	return releaseProgram()
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

// releaseProgram gives back the pages of the program. The kernel maps the sixteen
// pages around each that is touched, and to start a pod, or just the process,
// touches most of a program, so that nearly all of it would count as this
// process's, for ever. What is used again is mapped again from the page cache, in
// a microsecond.
func releaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	mappings, err := cleanMappings(f, exe)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mappings {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
		if errno != 0 {
			errs = append(errs, fmt.Errorf("give back %x-%x of the program: %w", m.start, m.end, errno))
		}
	}
	return errors.Join(errs...)
}

// mapping is a range of this process's memory.
type mapping struct{ start, end uintptr }

// cleanMappings finds in a smaps what maps file and can be read from it again:
// what cannot be written and has no page of its own. A program that is
// relocated when it is loaded has such pages in its tables, and one under a
// debugger has them where breakpoints are.
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var found []mapping
	ours := false // the last of found is what the lines are about
	for lines := bufio.NewScanner(smaps); ; {
		if !lines.Scan() {
			return found, lines.Err()
		}
		line := lines.Text()
		key, value, _ := strings.Cut(line, " ")
		if !strings.HasSuffix(key, ":") {
			ours = strings.HasPrefix(value, "r-") && strings.HasSuffix(line, " "+file)
			if !ours {
				continue
			}
			var m mapping
			if _, err := fmt.Sscanf(key, "%x-%x", &m.start, &m.end); err != nil {
				return nil, fmt.Errorf("parse mapping %q: %w", line, err)
			}
			found = append(found, m)
			continue
		}
		if ours && key == "Anonymous:" && strings.TrimSpace(value) != "0 kB" {
			found, ours = found[:len(found)-1], false
		}
	}
}
