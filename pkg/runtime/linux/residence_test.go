package linux

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-01347000 r-xp 00000000 08:01 42      /usr/bin/cri node (deleted)
Size:              15644 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01347000-02503000 r--p 00f47000 08:01 42      /usr/bin/cri node (deleted)
Anonymous:             0 kB
02503000-02504000 r--p 02103000 08:01 42      /usr/bin/cri node (deleted)
Anonymous:             4 kB
VmFlags: rd mr mw me
02504000-025ca000 rw-p 02104000 08:01 42      /usr/bin/cri node (deleted)
Anonymous:             0 kB
025ca000-025cb000 r--p 00000000 08:01 43      /usr/bin/other
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0   [anon: Go: heap]
Anonymous:          2048 kB
`
	got, err := cleanMappings(strings.NewReader(smaps), "/usr/bin/cri node (deleted)")
	if want := []mapping{{0x400000, 0x1347000}, {0x1347000, 0x2503000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
	if _, err := cleanMappings(strings.NewReader("nonsense r--p 0 08:01 42 /x\n"), "/x"); err == nil {
		t.Error("a mapping without addresses is taken")
	}
}

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
