package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReopenUnderLoad(t *testing.T) {
	n := startNode(t)
	stop := filepath.Join(n.dir, "stop")
	req := n.request("w", writer(stop, 0))
	n.create(req)
	var logs []string
	for i := range 20 {
		time.Sleep(5 * time.Millisecond)
		old := fmt.Sprintf("%s.%d", req.LogPath, i)
		if err := os.Rename(req.LogPath, old); err != nil {
			t.Fatal(err)
		}
		if i%5 == 4 {
			n.killMonitor() // between the renaming and the reopening
		}
		if err := n.s.ReopenLog(context.Background(), "w"); err != nil {
			t.Fatal(err)
		}
		if !exists(req.LogPath) {
			t.Fatal("no new log when ReopenLog returns")
		}
		before, err := os.Stat(old)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		after, err := os.Stat(old)
		if err != nil || before.Size() != after.Size() {
			t.Fatalf("the old log grows from %d to %d, %v", before.Size(), after.Size(), err)
		}
		logs = append(logs, old)
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.exit("w")
	checkWriter(t, append(logs, req.LogPath)...)
}

func TestLogFileModeAndOrder(t *testing.T) {
	n := startNode(t)
	gate := filepath.Join(n.dir, "gate")
	req := n.request("a", "while [ ! -e "+gate+" ]; do sleep 0.01; done; for i in 1 2 3 4 5; do echo o$i; sleep 0.1; echo e$i >&2; sleep 0.1; done")
	n.create(req)
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.exit("a")
	var order []string
	for _, e := range readLog(t, req.LogPath) {
		order = append(order, e.content)
	}
	if got := strings.Join(order, " "); got != "o1 e1 o2 e2 o3 e3 o4 e4 o5 e5" {
		t.Errorf("order is %s", got)
	}
	info, err := os.Stat(req.LogPath)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestLongLines(t *testing.T) {
	n := startNode(t)
	req := n.request("a", "head -c 100000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; printf end")
	n.create(req)
	n.exit("a")
	log := readLog(t, req.LogPath)
	want := strings.Repeat("x", 100000) + "\n" + strings.Repeat("y", 16384) + "\nend"
	if output(log, "stdout") != want {
		t.Error("the log is not what was written")
	}
	var tags string
	for _, e := range log {
		tags += e.tag
	}
	if tags != "PPPPPPFFP" {
		t.Errorf("tags are %s", tags)
	}
}

func TestNoLog(t *testing.T) {
	n := startNode(t)
	req := n.request("a", "head -c 3000000 /dev/zero; exit 8")
	req.LogPath = ""
	n.create(req)
	if e := n.exit("a"); e.Code != 8 || e.LogBytesDropped != 0 {
		t.Errorf("exit is %+v", e)
	}
	if err := n.s.Forget(context.Background(), "a"); err != nil {
		t.Error(err)
	}
}

// TestSpoolStaysShort: the spools may be in memory.
func TestSpoolStaysShort(t *testing.T) {
	n := startNode(t)
	gate := filepath.Join(n.dir, "gate")
	req := n.request("a", "seq 1 300000; printf prompt; while [ ! -e "+gate+" ]; do sleep 0.01; done")
	n.create(req)
	var largest int64
	n.eventually("the last line", func() bool {
		for which := range int64(2) {
			if info, err := os.Stat(spoolPath(req.Dir, 0, which)); err == nil {
				largest = max(largest, info.Size())
			}
		}
		f, err := os.Open(req.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return strings.HasSuffix(fileTail(f), " 300000\n")
	})
	if largest > hotSpoolSize+2*hotPipeSize {
		t.Errorf("a spool has had %d bytes", largest)
	}
	n.killMonitor()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.exit("a")
	lines := strings.Split(output(readLog(t, req.LogPath), "stdout"), "\n")
	if len(lines) != 300001 || lines[300000] != "prompt" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	for i, line := range lines[:300000] {
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

// smallDisk mounts a file system of some size.
func smallDisk(t *testing.T, n *node, size string) string {
	t.Helper()
	dir := filepath.Join(n.dir, "disk"+size)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullLogDisk(t *testing.T) {
	n := startNode(t)
	disk := smallDisk(t, n, "256k")
	gate := filepath.Join(n.dir, "gate")
	req := n.request("a", fmt.Sprintf("seq 1 100000; echo done > %s.mark; while [ ! -e %s ]; do sleep 0.01; done; echo after; exit 3", gate, gate))
	req.LogPath = filepath.Join(disk, "a.log")
	n.create(req)
	// The container is not stopped by it.
	n.eventually("the end of the flood", func() bool { return exists(gate + ".mark") })
	n.eventually("everything to be read", func() bool {
		b, err := os.ReadFile(filepath.Join(n.dir, "monitor", logName))
		return err == nil && strings.Contains(string(b), "container log is not written")
	})
	old := req.LogPath + ".old"
	if err := os.Rename(req.LogPath, old); err != nil {
		t.Fatal(err)
	}
	if err := n.s.ReopenLog(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	first := readLog(t, old) // whole entries only
	if err := os.Remove(old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := n.exit("a")
	if e.Code != 3 || e.LogBytesDropped == 0 || !strings.Contains(e.LogError, "no space") {
		t.Errorf("exit is %+v", e)
	}
	second := readLog(t, req.LogPath)
	if last := second[len(second)-1]; last.content != "after" {
		t.Errorf("the last entry is %+v", last)
	}
	// Every byte is in the log or in a drop record that stands in its place.
	var dropped, next int64 = 0, 1
	for _, entry := range append(first, second[:len(second)-1]...) {
		var hole, line int64
		if _, err := fmt.Sscanf(entry.content, "[cri-node: %d bytes", &hole); err == nil {
			dropped += hole
			for ; hole > 0; next++ {
				hole -= int64(len(fmt.Sprintln(next)))
			}
		} else if _, err := fmt.Sscan(entry.content, &line); err != nil || line != next {
			t.Fatalf("line %d is %q", next, entry.content)
		} else {
			next++
		}
	}
	if next != 100001 || dropped != e.LogBytesDropped {
		t.Errorf("%d lines and %d dropped bytes are accounted for, of %d", next-1, dropped, e.LogBytesDropped)
	}
}

func checkSequence(t *testing.T, text string) {
	t.Helper()
	i := 0
	for line := range strings.Lines(text) {
		if i++; line != fmt.Sprintf("%d\n", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

// TestFullStateDisk has no room for the spools.
func TestFullStateDisk(t *testing.T) {
	n := startNode(t)
	disk := smallDisk(t, n, "128k")
	req := n.request("a", "sleep 0.2; seq 1 100000; exit 3")
	req.Dir = filepath.Join(disk, "a")
	if err := os.Mkdir(req.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n.create(req)
	fill, err := os.Create(filepath.Join(disk, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := fill.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := fill.Close(); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("a"); e.Code != 3 {
		t.Errorf("exit is %+v", e)
	}
	checkSequence(t, output(readLog(t, req.LogPath), "stdout"))
}

// TestLeftWriter: a process outside the container's PID namespace keeps the
// output open after the init has gone.
func TestLeftWriter(t *testing.T) {
	n := startNode(t)
	pidFile := filepath.Join(n.dir, "left")
	req := n.request("a", "sleep 1000 & echo $! > "+pidFile+"; echo bye; exit 2")
	n.create(req)
	start := time.Now()
	if e := n.exit("a"); e.Code != 2 {
		t.Errorf("exit is %+v", e)
	}
	if d := time.Since(start); d < drainTime/2 || d > 2*drainTime {
		t.Errorf("drained for %v", d)
	}
	if got := output(readLog(t, req.LogPath), "stdout"); got != "bye\n" {
		t.Errorf("log is %q", got)
	}
	pid, err := readPidFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

func BenchmarkLog(b *testing.B) {
	for _, size := range []int{20, 100, 1000} {
		b.Run(fmt.Sprintf("line=%d", size), func(b *testing.B) { benchmarkLog(b, size) })
	}
}

// benchmarkLog measures the whole way from a pipe to the log.
func benchmarkLog(b *testing.B, size int) {
	dir := b.TempDir()
	poller, err := newPoller()
	if err != nil {
		b.Fatal(err)
	}
	go poller.run()
	defer poller.stop()
	j, err := openJournal(filepath.Join(dir, journalName), true)
	if err != nil {
		b.Fatal(err)
	}
	m := &server{poller: poller, logger: slog.New(slog.DiscardHandler)}
	p, err := newPump(m, containerRecord{ID: "b", Dir: dir, LogPath: filepath.Join(dir, "log"), MaxLineSize: DefaultMaxLineSize}, j)
	if err != nil {
		b.Fatal(err)
	}
	out, err := makeOutput(dir, 0)
	if err != nil {
		b.Fatal(err)
	}
	in, err := openReader(dir, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := <-p.connect(0, in); err != nil {
		b.Fatal(err)
	}
	block := []byte(strings.Repeat(strings.Repeat("x", size-1)+"\n", 1+(64<<10)/size))
	b.SetBytes(int64(len(block)))
	b.ReportMetric(0, "ns/op")
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		for rest := block; len(rest) > 0; {
			n, err := unix.Write(out, rest)
			if err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
		if i%4096 == 4095 { // the disk has an end
			if err := os.Truncate(filepath.Join(dir, "log"), 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	closeFD(out)
	p.finish(time.Minute)
	b.StopTimer()
	b.ReportMetric(float64(b.N)*float64(len(block)/size)/b.Elapsed().Seconds(), "lines/s")
	if err := j.close(); err != nil {
		b.Fatal(err)
	}
}
