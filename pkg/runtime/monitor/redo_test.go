package monitor

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// killedPump leaves files as a monitor leaves them that was killed when cut
// bytes of its second batch were in the log. It returns the whole log.
func killedPump(t *testing.T, m *server, r containerRecord, cut int) (whole string) {
	t.Helper()
	j, err := openJournal(filepath.Join(r.Dir, journalName), true)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPump(m, r, j)
	if err != nil {
		t.Fatal(err)
	}
	b := &buffers{}
	feed := func(stream int, text string) {
		if err := pwrite(p.streams[stream].spool, []byte(text), p.streams[stream].size); err != nil {
			t.Fatal(err)
		}
		p.streams[stream].size += int64(len(text))
	}
	feed(0, "first\nhalf")
	p.settle(b, false)
	feed(0, " done\n"+strings.Repeat("x", 20)+"\nrest")
	feed(1, "error\n")
	// What writeBatch does, until the kill.
	cur := j.current()
	next := batch{ends: cur.consumed, time: time.Now().UnixNano(), first: 1}
	out, err := p.encode(b, cur, &next, false)
	if err != nil {
		t.Fatal(err)
	}
	id, size, err := p.openLog()
	if err != nil {
		t.Fatal(err)
	}
	next.logDev, next.logIno, next.logSize = id.dev, id.ino, size
	j.begin(next)
	cut = min(cut, len(out))
	if err := appendLog(p.logFD, out[:cut], size); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(r.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	whole = string(log) + string(out[cut:])
	p.closeStreams()
	closeFD(p.logFD)
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	return whole
}

func TestRedo(t *testing.T) {
	poller, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	go poller.run()
	defer poller.stop()
	m := &server{poller: poller, logger: slog.New(slog.DiscardHandler)}
	tests := map[string]struct {
		meanwhile func(t *testing.T, log string)
		logs      []string // in order; "" is the log path
	}{
		"as it was": {func(*testing.T, string) {}, []string{""}},
		"renamed": {func(t *testing.T, log string) {
			if err := os.Rename(log, log+".1"); err != nil {
				t.Fatal(err)
			}
		}, []string{".1", ""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for cut := range 230 {
				dir := t.TempDir()
				r := containerRecord{ID: "r", Dir: dir, LogPath: filepath.Join(dir, "log"), MaxLineSize: 8}
				whole := killedPump(t, m, r, cut)
				tt.meanwhile(t, r.LogPath)
				j, err := openJournal(filepath.Join(dir, journalName), false)
				if err != nil {
					t.Fatal(err)
				}
				p, err := newPump(m, r, j)
				if err != nil {
					t.Fatal(err)
				}
				p.do(p.redo)
				p.finish(time.Minute)
				got := ""
				for _, suffix := range tt.logs {
					b, err := os.ReadFile(r.LogPath + suffix)
					if err != nil {
						t.Fatal(err)
					}
					got += string(b)
				}
				text, last := strings.CutPrefix(got, whole)
				if !last || output(parseLog(t, []byte(text)), "stdout") != "rest" {
					t.Fatalf("cut at %d: log is\n%s\nwant\n%s\nand rest", cut, got, whole)
				}
				if err := j.close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestSpoolChange kills between the steps of making a spool short.
func TestSpoolChange(t *testing.T) {
	poller, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	go poller.run()
	defer poller.stop()
	m := &server{poller: poller, logger: slog.New(slog.DiscardHandler)}
	for step := range 4 {
		dir := t.TempDir()
		r := containerRecord{ID: "r", Dir: dir, LogPath: filepath.Join(dir, "log"), MaxLineSize: 8}
		j, err := openJournal(filepath.Join(dir, journalName), true)
		if err != nil {
			t.Fatal(err)
		}
		p, err := newPump(m, r, j)
		if err != nil {
			t.Fatal(err)
		}
		b := &buffers{}
		s := p.streams[0]
		if err := pwrite(s.spool, []byte("one\ntwo"), 0); err != nil {
			t.Fatal(err)
		}
		s.size = 7
		p.settle(b, false)
		cur := j.current()
		if step > 0 {
			fd, err := s.moveTail(b, 1, cur.consumed[0])
			if err != nil {
				t.Fatal(err)
			}
			defer closeFD(fd)
		}
		if step > 1 {
			cur.consumed[0], cur.spool[0] = 0, 1
			j.commit(cur)
		}
		if step > 2 {
			if err := os.Remove(spoolPath(dir, 0, 0)); err != nil {
				t.Fatal(err)
			}
		}
		p.closeStreams()
		closeFD(p.logFD)
		if p, err = newPump(m, r, j); err != nil {
			t.Fatal(err)
		}
		p.do(p.redo)
		p.finish(time.Minute)
		if got := output(readLog(t, r.LogPath), "stdout"); got != "one\ntwo" {
			t.Errorf("killed after step %d: log is %q", step, got)
		}
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
	}
}
