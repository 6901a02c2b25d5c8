package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func TestExit(t *testing.T) {
	n := startNode(t)
	tests := []struct {
		name, script string
		code, signal int
	}{
		{"zero", "exit 0", 0, 0},
		{"code", "exit 37", 37, 0},
		{"signal", "kill -KILL $$", 137, 9},
		{"term", "kill -TERM $$", 143, 15},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := n.request(tt.name, "echo out; echo err >&2; printf part; "+tt.script)
			before := time.Now()
			r := n.create(req)
			e := n.exit(tt.name)
			if e.Code != tt.code || e.Signal != tt.signal || e.Lost || e.OOMKilled || e.LogError != "" {
				t.Errorf("exit is %+v", e)
			}
			if e.FinishedAt.Before(before) || e.FinishedAt.After(time.Now()) {
				t.Errorf("finished at %v", e.FinishedAt)
			}
			requireGone(t, r.Process)
			log := readLog(t, req.LogPath)
			if got := output(log, "stdout"); got != "out\npart" {
				t.Errorf("stdout is %q", got)
			}
			if got := output(log, "stderr"); got != "err\n" {
				t.Errorf("stderr is %q", got)
			}
			saved, _, err := linux.LoadRecord[Exit](filepath.Join(req.Dir, exitName))
			if err != nil || saved.Code != tt.code {
				t.Errorf("exit record is %+v, %v", saved, err)
			}
			entries, err := os.ReadDir(req.Dir)
			if err != nil || len(entries) != 2 { // exit.json, pid
				t.Errorf("left in the directory: %v, %v", entries, err)
			}
		})
	}
}

func TestFastExitIsNotMissed(t *testing.T) {
	n := startNode(t)
	for i := range 30 {
		id := fmt.Sprintf("fast%d", i)
		req := n.request(id, "exit 3")
		// At times the init has gone before its runtime has.
		req.Argv = slices.Insert(req.Argv, 3, "--wait", fmt.Sprintf("%dms", i%3*10))
		n.create(req)
		if e := n.exit(id); e.Code != 3 {
			t.Fatalf("%s: exit is %+v", id, e)
		}
	}
}

func TestConcurrentCreates(t *testing.T) {
	n := startNode(t)
	const count = 200
	var wait sync.WaitGroup
	errs := make(chan error, count)
	for i := range count {
		req := n.request(fmt.Sprintf("c%d", i), fmt.Sprintf("echo line %d; exit %d", i, i%256))
		wait.Go(func() {
			if _, err := n.s.Create(context.Background(), req); err != nil {
				errs <- fmt.Errorf("%s: %w", req.ID, err)
			}
		})
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	for i := range count {
		id := fmt.Sprintf("c%d", i)
		if e := n.exit(id); e.Code != i%256 {
			t.Errorf("%s: exit is %+v", id, e)
		}
		if got := output(readLog(t, filepath.Join(n.dir, id+".log")), "stdout"); got != fmt.Sprintf("line %d\n", i) {
			t.Errorf("%s: log is %q", id, got)
		}
	}
}

func TestCreateFailureLeavesNothing(t *testing.T) {
	n := startNode(t)
	tests := []struct {
		name    string
		change  func(*CreateRequest)
		want    string
		invalid bool
	}{
		{"exit status", func(r *CreateRequest) {
			r.Argv = []string{"/bin/sh", "-c", `printf 'bad \377 thing\n' >&2; exit 5`}
		}, "exit status 5: bad \uFFFD thing", false},
		{"log", func(r *CreateRequest) {
			r.RuntimeLog = filepath.Join(r.Dir, "runtime.log")
			r.Argv = []string{"/bin/sh", "-c", `echo '{"level":"error","msg":"no such bundle"}' > ` + r.RuntimeLog + `; exit 1`}
		}, "no such bundle", false},
		{"much stderr", func(r *CreateRequest) {
			r.Argv = []string{"/bin/sh", "-c", `head -c 200000 /dev/zero | tr '\0' x >&2; echo the end >&2; exit 1`}
		}, "the end", false},
		{"no binary", func(r *CreateRequest) { r.Argv[0] = "/nonexistent/runc" }, "no such file", false},
		{"no pid file", func(r *CreateRequest) { r.Argv = []string{"/bin/true"} }, "pid", false},
		{"foreign pid", func(r *CreateRequest) {
			r.Argv = []string{"/bin/sh", "-c", fmt.Sprintf("echo %d > %s", os.Getpid(), r.PidFile)}
		}, "not a child", false},
		{"timeout", func(r *CreateRequest) {
			r.Argv = []string{"/bin/sh", "-c", "sleep 100"}
			r.Timeout = 100 * time.Millisecond
		}, "no end within", false},
		{"no terminal", func(r *CreateRequest) {
			r.Argv = []string{"/bin/sh", "-c", "sleep 1000 & echo $! > " + r.PidFile, "create"}
			r.TTY, r.Timeout = true, 300*time.Millisecond
		}, "receive terminal", false},
		{"log is a directory", func(r *CreateRequest) { r.LogPath = r.Dir }, "is a directory", false},
		{"log is a link", func(r *CreateRequest) {
			if err := os.Symlink("/etc/passwd", r.LogPath); err != nil {
				panic(err)
			}
		}, "symbolic links", false},
		{"bad id", func(r *CreateRequest) { r.ID = "../x" }, "container id", true},
		{"relative", func(r *CreateRequest) { r.Dir = "x" }, "not absolute", true},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := n.request(fmt.Sprintf("f%d", i), "exit 0")
			tt.change(&req)
			_, err := n.s.Create(context.Background(), req)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error is %v, want %q in it", err, tt.want)
			}
			if len(err.Error()) > maxErrorTail+200 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
			if errors.Is(err, ErrInvalid) != tt.invalid {
				t.Errorf("error is of the wrong class: %v", err)
			}
			requireNothing(t, n, fmt.Sprintf("f%d", i))
			if pid, err := readPidFile(req.PidFile); err == nil && pid != os.Getpid() {
				n.eventually("the end of the init", func() bool { return !exists(fmt.Sprintf("/proc/%d", pid)) })
			}
			if list, err := n.s.List(context.Background()); err != nil || len(list) != 0 {
				t.Errorf("list is %v, %v", list, err)
			}
		})
	}
	// The id is free again.
	n.create(n.request("f0", "exit 0"))
	n.exit("f0")
}

func requireNothing(t *testing.T, n *node, id string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.dir, id))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "pid" && e.Name() != "runtime.log" {
			t.Errorf("left: %s", e.Name())
		}
	}
	info, err := os.Lstat(filepath.Join(n.dir, id+".log"))
	if err == nil && info.Mode().IsRegular() {
		t.Error("left: the log")
	}
	if entries, _ := os.ReadDir(filepath.Join(n.dir, "monitor", indexName)); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestCreateCanceled(t *testing.T) {
	n := startNode(t)
	req := n.request("a", "exit 0")
	req.Argv = []string{"/bin/sh", "-c", "echo $$ > " + filepath.Join(req.Dir, "started") + "; sleep 100"}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for !exists(filepath.Join(req.Dir, "started")) {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := n.s.Create(ctx, req); !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	n.create(n.request("a", "exit 4"))
	if e := n.exit("a"); e.Code != 4 {
		t.Errorf("exit is %+v", e)
	}
}

func TestStates(t *testing.T) {
	n := startNode(t)
	ctx := context.Background()
	r := n.create(n.request("a", "exec sleep 1000"))
	if _, err := n.s.Create(ctx, n.request("a", "exit 0")); !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v", err)
	}
	if err := n.s.Forget(ctx, "a"); !errors.Is(err, ErrState) {
		t.Errorf("forget of a running one: %v", err)
	}
	if err := n.s.Forget(ctx, "unknown"); err != nil {
		t.Errorf("forget of an unknown one: %v", err)
	}
	if err := n.s.ReopenLog(ctx, "unknown"); !errors.Is(err, ErrNotFound) {
		t.Errorf("reopen of an unknown one: %v", err)
	}
	if err := n.s.Resize(ctx, "a", 1, 1); !errors.Is(err, ErrState) {
		t.Errorf("resize without a terminal: %v", err)
	}
	if list, err := n.s.List(ctx); err != nil || len(list) != 1 || list[0].Process != r.Process || list[0].Exit != nil {
		t.Errorf("list is %+v, %v", list, err)
	}
	if err := r.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n.exit("a")
	if err := n.s.ReopenLog(ctx, "a"); !errors.Is(err, ErrState) {
		t.Errorf("reopen of an exited one: %v", err)
	}
	for range 2 {
		if err := n.s.Forget(ctx, "a"); err != nil {
			t.Errorf("forget: %v", err)
		}
	}
	if list, err := n.s.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("list is %+v, %v", list, err)
	}
}

func TestStdin(t *testing.T) {
	n := startNode(t)
	req := n.request("null", "cat; exit 5")
	n.create(req)
	if e := n.exit("null"); e.Code != 5 {
		t.Errorf("exit is %+v", e)
	}
	req = n.request("pipe", "cat; exit 6")
	req.Stdin = true
	r := n.create(req)
	n.killMonitor() // stdin must not end with it
	f, err := os.OpenFile(filepath.Join(req.Dir, fifoNames[0]), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n.eventually("the line in the log", func() bool { return output(readLog(t, req.LogPath), "stdout") == "hello\n" })
	if !r.Process.Alive() {
		t.Fatal("stdin has ended")
	}
	for range 2 {
		if err := n.s.CloseStdin(context.Background(), "pipe"); err != nil {
			t.Fatal(err)
		}
	}
	if e := n.exit("pipe"); e.Code != 6 {
		t.Errorf("exit is %+v", e)
	}
}

func TestTTY(t *testing.T) {
	n := startNode(t)
	req := n.request("tty", `echo ready; while :; do read line || exit 1; echo "got $line"; [ "$line" = end ] && exit 9; done`)
	req.TTY = true
	n.create(req)
	text := func() string { return output(readLog(t, req.LogPath), "stdout") }
	n.eventually("ready", func() bool { return text() == "ready\n" })
	if err := n.s.Resize(context.Background(), "tty", 132, 43); err != nil {
		t.Fatal(err)
	}
	n.killMonitor() // the daemon's duplicate keeps the terminal
	fd := n.s.holds.dupTTY("tty")
	defer closeFD(fd)
	if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err != nil || size.Col != 132 || size.Row != 43 {
		t.Errorf("size is %+v, %v", size, err)
	}
	if _, err := unix.Write(fd, []byte("one\nend\n")); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("tty"); e.Code != 9 {
		t.Errorf("exit is %+v", e)
	}
	if got := text(); !strings.Contains(got, "got one\n") || !strings.Contains(got, "got end\n") {
		t.Errorf("log is %q", got)
	}
}

// Who forgets a container that is just being created waits for the end of that.
func TestForgetWaitsForCreate(t *testing.T) {
	n := startNode(t)
	req := n.request("a", "exec sleep 1000")
	req.Argv = slices.Insert(req.Argv, 5, "--wait", "1s")
	created := make(chan error, 1)
	go func() {
		_, err := n.s.Create(context.Background(), req)
		created <- err
	}()
	n.eventually("the runtime runs", func() bool { return exists(req.PidFile) })
	if err := n.s.Forget(t.Context(), "a"); !errors.Is(err, ErrState) {
		t.Errorf("forget: %v", err)
	}
	if err := <-created; err != nil {
		t.Fatal(err)
	}
}

// The first call after hello may come before the monitor has sent what follows
// the answer.
func TestCallsRightAfterHello(t *testing.T) {
	n := startNode(t)
	n.create(n.request("a", "exit 3"))
	n.exit("a")
	for range 200 {
		if err := n.s.Close(); err != nil {
			t.Fatal(err)
		}
		n.connect()
		if list, err := n.s.List(t.Context()); err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
	}
}
