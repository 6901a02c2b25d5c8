package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// TestMain makes the test binary play three parts: the tests, the monitor and
// an OCI runtime that needs no bundle.
func TestMain(m *testing.M) {
	// Programs with the race detector sleep for a second before they end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		exitWith(err)
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "monitor":
			exitWith(Main(os.Args[2:]))
		case "fake-runtime":
			exitWith(fakeRuntime(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// fakeRuntime is `fake-runtime create [--console-socket S] --pid-file P [--wait DURATION] -- command`.
// It starts the command with its own stdio, or with a terminal, and leaves it.
func fakeRuntime(args []string) error {
	option := func(name string) string {
		if i := slices.Index(args, name); i >= 0 {
			return args[i+1]
		}
		return ""
	}
	command := args[slices.Index(args, "--")+1:]
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	sys := &syscall.SysProcAttr{Setsid: true}
	if socket := option("--console-socket"); socket != "" {
		slave, err := sendPTY(socket)
		if err != nil {
			return err
		}
		files = []*os.File{slave, slave, slave}
		sys.Setctty = true
	}
	p, err := os.StartProcess(command[0], command, &os.ProcAttr{Files: files, Env: os.Environ(), Sys: sys})
	if err != nil {
		return err
	}
	if err := os.WriteFile(option("--pid-file"), []byte(strconv.Itoa(p.Pid)), 0o600); err != nil {
		return err
	}
	if wait, err := time.ParseDuration(option("--wait")); err == nil {
		time.Sleep(wait)
	}
	return nil
}

func sendPTY(socket string) (*os.File, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	_, _, err = c.WriteMsgUnix([]byte("console"), unix.UnixRights(int(master.Fd())), nil)
	return slave, errors.Join(err, c.Close(), master.Close())
}

// A node is a supervisor with its monitor, in a directory of the test's.
type node struct {
	t   *testing.T
	dir string
	s   *Supervisor

	mu     sync.Mutex
	events []Event
	news   chan struct{}
}

func testExe(t testing.TB) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), news: make(chan struct{})}
	n.allowSpawning()
	n.connect()
	t.Cleanup(n.stop)
	return n
}

func (n *node) connect() {
	n.t.Helper()
	s, err := Start(context.Background(), Config{
		Dir: filepath.Join(n.dir, "monitor"), Exe: filepath.Join(n.dir, "exe"), OnEvent: n.event,
		Logger: slog.New(slog.NewTextHandler(testWriter{n.t}, nil)),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.s = s
}

// The supervisor starts its monitor through a link, without which it cannot.

func (n *node) allowSpawning() {
	n.t.Helper()
	if err := os.Symlink(testExe(n.t), filepath.Join(n.dir, "exe")); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) forbidSpawning() {
	n.t.Helper()
	if err := os.Remove(filepath.Join(n.dir, "exe")); err != nil {
		n.t.Fatal(err)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (n *node) event(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	close(n.news)
	n.news = make(chan struct{})
}

// stop ends whatever the test has left and the monitor.
func (n *node) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list, err := n.s.List(ctx)
	if err != nil {
		n.t.Error(err)
	}
	for _, c := range list {
		if c.Exit == nil {
			_ = c.Process.Signal(unix.SIGKILL)
			n.exit(c.ID)
		}
		if err := n.s.Forget(ctx, c.ID); err != nil {
			n.t.Error(err)
		}
	}
	if err := n.s.Shutdown(ctx); err != nil {
		n.t.Error(err)
	}
	n.eventually("no monitor", func() bool {
		lock, err := linux.Lock(filepath.Join(n.dir, "monitor", lockName))
		return err == nil && lock.Close() == nil
	})
	b, err := os.ReadFile(filepath.Join(n.dir, "monitor", logName))
	if err != nil || bytes.Contains(b, []byte("DATA RACE")) || bytes.Contains(b, []byte("panic:")) {
		n.t.Error("the monitor has a fault", err)
	}
	if n.t.Failed() {
		n.t.Logf("monitor.log:\n%s", b)
	}
}

// request makes a create request for a shell script.
func (n *node) request(id, script string) CreateRequest {
	n.t.Helper()
	dir := filepath.Join(n.dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "pid")
	return CreateRequest{
		ID: id, Dir: dir, PidFile: pidFile, LogPath: filepath.Join(n.dir, id+".log"), Env: os.Environ(),
		Argv: []string{testExe(n.t), "fake-runtime", "create", "--pid-file", pidFile, "--", "/bin/sh", "-c", script},
	}
}

func (n *node) create(req CreateRequest) CreateResult {
	n.t.Helper()
	r, err := n.s.Create(context.Background(), req)
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

// exit waits for a container's exit.
func (n *node) exit(id string) Exit {
	n.t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		n.mu.Lock()
		i := slices.IndexFunc(n.events, func(e Event) bool { return e.ID == id && e.Exit != nil })
		news := n.news
		var e Event
		if i >= 0 {
			e = n.events[i]
		}
		n.mu.Unlock()
		if i >= 0 {
			return *e.Exit
		}
		select {
		case <-news:
		case <-timeout:
			n.t.Fatalf("no exit of %s", id)
		}
	}
}

func (n *node) forgetEvents() {
	n.mu.Lock()
	n.events = nil
	n.mu.Unlock()
}

// killMonitor kills the monitor and waits until another has taken over.
func (n *node) killMonitor() {
	n.t.Helper()
	pid := n.s.PID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("another monitor", func() bool { p := n.s.PID(); return p != 0 && p != pid })
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			n.t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// entry is one entry of a CRI log.
type entry struct {
	time        time.Time
	stream, tag string
	content     string
}

// parseLog is strict: it is the reader that kubelet might be.
func parseLog(t testing.TB, log []byte) []entry {
	t.Helper()
	var entries []entry
	for line := range strings.Lines(string(log)) {
		content, ok := strings.CutSuffix(line, "\n")
		fields := strings.SplitN(content, " ", 4)
		if !ok || len(fields) != 4 {
			t.Fatalf("entry %.200q is not whole", line)
		}
		at, err := time.Parse(time.RFC3339Nano, fields[0])
		if err != nil || (fields[1] != "stdout" && fields[1] != "stderr") || (fields[2] != "F" && fields[2] != "P") {
			t.Fatalf("entry %.200q: %v", line, err)
		}
		entries = append(entries, entry{at, fields[1], fields[2], fields[3]})
	}
	return entries
}

// output puts a stream's bytes together again.
func output(entries []entry, stream string) string {
	var b strings.Builder
	for _, e := range entries {
		if e.stream == stream {
			b.WriteString(e.content)
			if e.tag == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

func readLog(t testing.TB, paths ...string) []entry {
	t.Helper()
	var entries []entry
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, parseLog(t, b)...)
	}
	return entries
}

// checkNumbered demands the lines "<prefix> 0", "<prefix> 1", … each once and
// in order, and returns how many there are.
func checkNumbered(t testing.TB, text, prefix string) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(text) {
		if want := fmt.Sprintf("%s %d\n", prefix, n); line != want {
			t.Fatalf("line %d of %s is %.200q", n, prefix, line)
		}
		n++
	}
	return n
}

func requireGone(t *testing.T, p linux.Process) {
	t.Helper()
	if p.Alive() {
		t.Errorf("process %d lives", p.PID)
	}
}

func lookFor(t testing.TB, name string, more ...string) string {
	for _, path := range append(more, name) {
		if p, err := exec.LookPath(path); err == nil {
			return p
		}
	}
	t.Skipf("no %s on this machine", name)
	return ""
}
