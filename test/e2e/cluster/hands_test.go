package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// typist sits at a terminal with kubectl on it.
type typist struct {
	*testing.T
	terminal *os.File
	cmd      *exec.Cmd
	seen     chan byte
	text     strings.Builder
}

// sit starts kubectl on a terminal.
func sit(t *testing.T, args ...string) *typist {
	t.Helper()
	p := &typist{T: t, cmd: shared.Kubectl.Command(t.Context(), args...), seen: make(chan byte, 1<<16)}
	var err error
	p.terminal, err = pty.StartWithSize(p.cmd, &pty.Winsize{Rows: 30, Cols: 100})
	must(t, err)
	t.Cleanup(func() { _ = p.terminal.Close() })
	go func() {
		defer close(p.seen)
		buf := make([]byte, 1024)
		for {
			n, err := p.terminal.Read(buf)
			for _, b := range buf[:n] {
				p.seen <- b
			}
			if err != nil {
				return // the other end is closed
			}
		}
	}()
	return p
}

// until waits until the text is seen, and forgets what came before.
func (p *typist) until(text string) {
	p.Helper()
	limit := time.After(pace.Limit(suite.Limit))
	for !strings.Contains(p.text.String(), text) {
		select {
		case b, ok := <-p.seen:
			if !ok {
				p.Fatalf("kubectl has ended before %q: %q", text, p.text.String())
			}
			p.text.WriteByte(b)
		case <-limit:
			p.Fatalf("no %q in %q", text, p.text.String())
		}
	}
	p.text.Reset()
}

func (p *typist) types(text string) {
	p.Helper()
	_, err := io.WriteString(p.terminal, text)
	must(p.T, err)
}

// ends waits for kubectl and returns its exit code.
func (p *typist) ends() int {
	p.Helper()
	for range p.seen {
	}
	_ = p.cmd.Wait() // the code tells
	return p.cmd.ProcessState.ExitCode()
}

// TestKubectlExecTerminal: a shell on a terminal, with its size as it changes, and
// the exit code of the command.
func TestKubectlExecTerminal(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	shared.Create(t, ns, shared.Shell("box", idle))
	shared.AwaitReady(t, ns, "box")
	p := sit(t, "exec", "-it", "-n", ns, "box", "--", "sh")
	p.until("# ")
	p.types("stty size; echo ready\r")
	p.until("30 100")
	must(t, pty.Setsize(p.terminal, &pty.Winsize{Rows: 41, Cols: 77}))
	p.types("while [ \"$(stty size)\" != '41 77' ]; do sleep 0.1; done; echo re''sized\r")
	p.until("resized")
	p.types("sh -c 'echo slee''ping; exec sleep 1000'\r")
	p.until("sleeping")
	p.types("\x03")
	p.types("echo inter''rupted\r")
	p.until("interrupted")
	p.types("exit 9\r")
	if code := p.ends(); code != 9 {
		t.Errorf("exit code %d", code)
	}
}

// TestKubectlAttach: to what runs, with its input.
func TestKubectlAttach(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := shared.Shell("reader", "while read line; do echo got $line; done; echo end")
	p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
	shared.Create(t, ns, p)
	shared.AwaitReady(t, ns, "reader")
	out, err := shared.Kubectl.Feed(t.Context(), "one\ntwo\n", "attach", "-i", "-n", ns, "reader")
	if err != nil || !strings.Contains(out, "got one\ngot two\nend\n") {
		t.Errorf("attach says %q: %v", out, err)
	}
	shared.AwaitPod(t, ns, "reader", "over", over)
}

// TestKubectlRunTerminal: `kubectl run -it --rm`, as people do it.
func TestKubectlRunTerminal(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := sit(t, "run", "-it", "--rm", "-n", ns, "--restart=Never", "--image="+shared.Images.Busybox, "toy", "--", "sh")
	p.types("echo te''rminal; tty\r")
	p.until("terminal")
	p.until("/dev/pts/0")
	p.types("exit 4\r")
	if code := p.ends(); code != 4 {
		t.Errorf("exit code %d", code)
	}
}

// TestKubectlLogs: following, since, tail, previous, timestamps, all containers.
func TestKubectlLogs(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("talks", shell("one", "for i in 1 2 3; do echo one $i; done; while [ ! -e /shared/more ]; do sleep 0.1; done; echo one more; "+idle), shell("two", "echo two; "+idle))
	withShared(p)
	startPod(t, ns, p)
	var out bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	follow := shared.Kubectl.Command(ctx, "logs", "-f", "-n", ns, "talks", "-c", "one")
	reader, writer := io.Pipe()
	follow.Stdout = writer
	must(t, follow.Start())
	lines := make(chan string)
	go func() {
		buf := make([]byte, 1024)
		for {
			n, err := reader.Read(buf)
			if n > 0 {
				lines <- string(buf[:n])
			}
			if err != nil {
				close(lines)
				return
			}
		}
	}()
	defer func() {
		stop()
		_ = follow.Wait()
		_ = writer.Close()
		for range lines {
		}
	}()
	await := func(text string) {
		t.Helper()
		limit := time.After(pace.Limit(suite.Limit))
		for !strings.Contains(out.String(), text) {
			select {
			case l := <-lines:
				out.WriteString(l)
			case <-limit:
				t.Fatalf("no %q in %q", text, out.String())
			}
		}
	}
	await("one 3\n")
	shared.Do(t, "exec", "-n", ns, "talks", "-c", "two", "--", "touch", "/shared/more")
	await("one more\n")
	if got := logsOf(t, ns, "talks", "one"); got != "one 1\none 2\none 3\none more\n" {
		t.Errorf("the log is %q", got)
	}
	if got := shared.Do(t, "logs", "-n", ns, "talks", "-c", "one", "--tail=1"); got != "one more\n" {
		t.Errorf("its tail is %q", got)
	}
	if got := shared.Do(t, "logs", "-n", ns, "talks", "--all-containers", "--prefix", "--timestamps"); strings.Count(got, "[pod/talks/") != 5 || !strings.Contains(got, "Z two\n") {
		t.Errorf("all logs are %q", got)
	}
	if got := shared.Do(t, "logs", "-n", ns, "talks", "-c", "one", "--since=1h", "--limit-bytes=3"); got != "one" {
		t.Errorf("three bytes are %q", got)
	}
}

// TestKubectlCopy: files to a pod and back, unchanged.
func TestKubectlCopy(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	shared.Create(t, ns, shared.Shell("box", idle))
	shared.AwaitReady(t, ns, "box")
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	must(t, os.MkdirAll(filepath.Join(dir, "tree", "deep"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "tree", "deep", "big"), big, 0o640))
	shared.Do(t, "cp", "-n", ns, filepath.Join(dir, "tree"), "box:/tmp/tree")
	shared.Do(t, "cp", "-n", ns, "box:/tmp/tree", filepath.Join(dir, "back"))
	if got := readFile(t, filepath.Join(dir, "back", "deep", "big")); got != string(big) {
		t.Errorf("%d bytes came back", len(got))
	}
}

// TestKubectlPortForward: to a port of a pod, several connections.
func TestKubectlPortForward(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	startPod(t, ns, server("web"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(t, l.Close())
	ctx, stop := context.WithCancel(t.Context())
	cmd := shared.Kubectl.Command(ctx, "port-forward", "-n", ns, "web", fmt.Sprintf("%d:8080", port))
	must(t, cmd.Start())
	defer func() {
		stop()
		_ = cmd.Wait()
	}()
	url := fmt.Sprintf("http://127.0.0.1:%d/hostname", port)
	suite.Await(t, suite.Limit, "the forwarded port", func(ctx context.Context) (bool, error) {
		got, err := fetch(ctx, url)
		return got == "web", err
	})
	for range 20 {
		if got, err := fetch(t.Context(), url); err != nil || got != "web" {
			t.Fatalf("got %q: %v", got, err)
		}
	}
}

// TestKubectlDebug: a container beside another, and a copy of a pod; and a look at
// the node itself.
func TestKubectlDebug(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	shared.Create(t, ns, shared.Pod("patient", "sleep", "6543"))
	shared.AwaitReady(t, ns, "patient")
	image := "--image=" + shared.Images.Busybox
	p := sit(t, "debug", "-it", "-n", ns, "patient", image, "--target=main", "--profile=general", "--", "sh")
	p.types("ps -o args | grep 654''3\r")
	p.until("sleep 6543")
	p.types("exit\r")
	p.ends()
	p = sit(t, "debug", "-it", "-n", ns, "node/"+shared.Worker.Name(), image, "--profile=sysadmin", "--", "sh")
	p.types("ls -d /host/etc/pass''wd\r")
	p.until("/host/etc/passwd")
	p.types("exit\r")
	p.ends()
}
