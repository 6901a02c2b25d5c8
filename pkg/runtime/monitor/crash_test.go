package monitor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// writer is a container that writes numbered lines to both streams until a
// file appears and exits with a code.
func writer(stop string, code int) string {
	return fmt.Sprintf(`i=0
while [ ! -e %s ]; do
	echo "out $i"; echo "err $i" >&2; i=$((i+1))
done
exit %d`, stop, code)
}

func TestKillMonitorUnderLoad(t *testing.T) {
	n := startNode(t)
	const writers, kills = 3, 20
	stop := filepath.Join(n.dir, "stop")
	var results []CreateResult
	for i := range writers {
		results = append(results, n.create(n.request(fmt.Sprintf("w%d", i), writer(stop, 50+i))))
	}
	for i := range kills {
		time.Sleep(time.Duration(3+7*i%23) * time.Millisecond) // at ever other moments
		n.killMonitor()
	}
	for _, r := range results {
		if !r.Process.Alive() {
			t.Fatal("a container has died with the monitor")
		}
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range writers {
		id := fmt.Sprintf("w%d", i)
		if e := n.exit(id); e.Code != 50+i || e.Lost || e.LogBytesDropped != 0 {
			t.Errorf("%s: exit is %+v", id, e)
		}
		checkWriter(t, filepath.Join(n.dir, id+".log"))
	}
}

// checkWriter demands each line of a writer once, and time that does not run
// backwards.
func checkWriter(t *testing.T, paths ...string) {
	t.Helper()
	entries := readLog(t, paths...)
	out := checkNumbered(t, output(entries, "stdout"), "out")
	err := checkNumbered(t, output(entries, "stderr"), "err")
	if out != err || out < 10 {
		t.Errorf("%d lines of stdout, %d of stderr", out, err)
	}
	t.Logf("%d lines", out)
	for i := 1; i < len(entries); i++ {
		if entries[i].time.Before(entries[i-1].time) {
			t.Errorf("entry %d is older than the one before", i)
		}
	}
}

func TestKillBoth(t *testing.T) {
	n := startNode(t)
	stop := filepath.Join(n.dir, "stop")
	n.create(n.request("w", writer(stop, 77)))
	for range 5 {
		// The daemon goes without a word, and its pipes, pidfds and so on too.
		time.Sleep(10 * time.Millisecond)
		pid := n.s.PID()
		if err := n.s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.connect()
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("w"); e.Code != 77 || e.Lost {
		t.Errorf("exit is %+v", e)
	}
	checkWriter(t, filepath.Join(n.dir, "w.log"))
}

// TestExitWithoutMonitor has containers exit while no monitor lives, only a
// daemon that holds their pidfds and pipes.
func TestExitWithoutMonitor(t *testing.T) {
	n := startNode(t)
	for i := range 5 {
		id := fmt.Sprintf("gap%d", i)
		gate := filepath.Join(n.dir, id+".gate")
		req := n.request(id, fmt.Sprintf("while [ ! -e %s ]; do sleep 0.01; done; echo last words; exit %d", gate, 40+i))
		r := n.create(req)
		n.forbidSpawning()
		if err := unix.Kill(n.s.PID(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.eventually("the exit", func() bool { return !r.Process.Alive() })
		n.allowSpawning()
		if e := n.exit(id); e.Code != 40+i || e.Lost {
			t.Errorf("exit is %+v", e)
		}
		if got := output(readLog(t, req.LogPath), "stdout"); got != "last words\n" {
			t.Errorf("log is %q", got)
		}
	}
}

func TestReplayAfterReconnect(t *testing.T) {
	n := startNode(t)
	gate := filepath.Join(n.dir, "gate")
	n.create(n.request("early", "exit 11"))
	n.create(n.request("gone", "exit 12"))
	n.create(n.request("late", "while [ ! -e "+gate+" ]; do sleep 0.01; done; exit 13"))
	n.exit("early")
	n.exit("gone")
	if err := n.s.Forget(context.Background(), "gone"); err != nil {
		t.Fatal(err)
	}
	pid := n.s.PID()
	if err := n.s.Close(); err != nil {
		t.Fatal(err)
	}
	n.forgetEvents()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.connect()
	if n.s.PID() != pid {
		t.Error("the monitor has not outlived its daemon")
	}
	if e := n.exit("early"); e.Code != 11 {
		t.Errorf("exit is %+v", e)
	}
	if e := n.exit("late"); e.Code != 13 {
		t.Errorf("exit is %+v", e)
	}
	n.killMonitor() // and it comes from the records too
	n.forgetEvents()
	n.killMonitor()
	if e := n.exit("early"); e.Code != 11 {
		t.Errorf("exit is %+v", e)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.ID == "gone" {
			t.Error("an exit was replayed that had been forgotten")
		}
	}
}

func TestUpgradeInPlace(t *testing.T) {
	n := startNode(t)
	stop := filepath.Join(n.dir, "stop")
	for i := range 3 {
		n.create(n.request(fmt.Sprintf("w%d", i), writer(stop, 60+i)))
	}
	tty := n.request("tty", "read line; echo got $line; exit 3")
	tty.TTY = true
	n.create(tty)
	n.create(n.request("done", "exit 1"))
	n.exit("done")
	pid := n.s.PID()
	for range 5 {
		if err := n.s.Upgrade(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := n.s.PID(); got != pid {
			t.Fatalf("monitor is %d, was %d", got, pid)
		}
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	fd := n.s.holds.dupTTY("tty")
	if _, err := unix.Write(fd, []byte("x\n")); err != nil {
		t.Error(err)
	}
	closeFD(fd)
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("tty"); e.Code != 3 || e.Lost {
		t.Errorf("exit is %+v", e)
	}
	for i := range 3 {
		id := fmt.Sprintf("w%d", i)
		if e := n.exit(id); e.Code != 60+i || e.Lost {
			t.Errorf("exit is %+v", e)
		}
		checkWriter(t, filepath.Join(n.dir, id+".log"))
	}
	log, err := os.ReadFile(filepath.Join(n.dir, "monitor", logName))
	if err != nil || strings.Count(string(log), "execute in place") < 5 {
		t.Errorf("monitor.log is %q, %v", log, err)
	}
}

func TestUpgradeFails(t *testing.T) {
	n := startNode(t)
	stop := filepath.Join(n.dir, "stop")
	n.create(n.request("w", writer(stop, 5)))
	n.eventually("some lines", func() bool {
		info, err := os.Stat(filepath.Join(n.dir, "w.log"))
		return err == nil && info.Size() > 10000
	})
	bad := filepath.Join(n.dir, "bad")
	if err := os.WriteFile(bad, []byte("not a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := n.s.current(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call[struct{}](context.Background(), l, opUpgrade, upgradeBody{Exe: bad}); err == nil {
		t.Fatal("a bad binary was executed")
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("w"); e.Code != 5 {
		t.Errorf("exit is %+v", e)
	}
	checkWriter(t, filepath.Join(n.dir, "w.log"))
}

// TestMonitorOfAnotherVersion lets a newer daemon meet an older monitor.
func TestMonitorOfAnotherVersion(t *testing.T) {
	n := startNode(t)
	l, err := dial(n.s.cfg.Dir, func(message) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	_, err = call[helloBody](context.Background(), l, opHello, helloBody{Version: protocolVersion + 1})
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("hello: %v", err)
	}
	if _, err := call[listBody](context.Background(), l, opList, struct{}{}); err == nil {
		t.Error("a call without hello was answered")
	}
	pid := n.s.PID()
	old, err := n.s.current(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.s.replace(context.Background()); err != nil {
		t.Errorf("replace: %v", err)
	}
	n.eventually("the same process, another program", func() bool {
		n.s.mu.Lock()
		defer n.s.mu.Unlock()
		return n.s.link != nil && n.s.link != old && n.s.link.pid == pid
	})
}
