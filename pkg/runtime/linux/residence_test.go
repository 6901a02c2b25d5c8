package linux

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The process works on, and has less.
func TestShrink(t *testing.T) {
	resident := func() int {
		t.Helper()
		data, err := os.ReadFile("/proc/self/smaps_rollup")
		if err != nil {
			t.Skip(err)
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); f[0] == "Rss:" {
				n := 0
				for _, c := range f[1] {
					n = n*10 + int(c-'0')
				}
				return n
			}
		}
		t.Fatal("no Rss")
		return 0
	}
	waste := make([][]byte, 64)
	for i := range waste {
		waste[i] = []byte(strings.Repeat("x", 1<<20))
	}
	before := resident()
	clear(waste)
	s := NewShrinker()
	defer s.Stop()
	s.begin = s.begin.Add(-restTime)
	if err := s.Shrink(); err != nil {
		t.Fatal(err)
	}
	if after := resident(); after > before-(32<<10) {
		t.Errorf("%d kB resident, %d before", after, before)
	}
}

func TestShrinkerIsDueWhileThereIsWorkAndOnceAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShrinker()
		defer s.Stop()
		for range 10 {
			time.Sleep(time.Second)
			s.Worked()
			select {
			case <-s.Due():
				if s.rested() {
					t.Fatal("at rest while there is work")
				}
			default:
			}
		}
		for over := time.Now(); ; {
			<-s.Due()
			if s.rested() {
				if took := time.Since(over); took > restTime+busyTime {
					t.Errorf("at rest after %v", took)
				}
				break
			}
		}
		time.Sleep(time.Hour)
		select {
		case <-s.Due():
			t.Fatal("due again without work")
		default:
		}
		s.Worked()
		<-s.Due()
	})
}

func TestShrinkerIsDueAfterACollection(t *testing.T) {
	s := NewShrinker()
	defer s.Stop()
	for range 2 {
		s.timer.Stop()
		s.armed.Store(false)
		runtime.GC()
		select {
		case <-s.Due():
		case <-time.After(4 * restTime):
			t.Fatal("not due after a collection")
		}
	}
}
