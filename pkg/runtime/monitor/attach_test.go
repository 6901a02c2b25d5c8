package monitor

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (n *node) attach(req AttachRequest) *Attachment {
	n.t.Helper()
	a, err := n.s.Attach(context.Background(), req)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			n.t.Error(err)
		}
	})
	return a
}

// gate is a file for which a script waits.
func (n *node) gate(name string) (wait string, open func()) {
	path := filepath.Join(n.dir, name)
	return "while [ ! -e " + path + " ]; do sleep 0.01; done; ", func() {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			n.t.Error(err)
		}
	}
}

// everything reads a stream to its end.
func everything(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Error(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// until reads a stream until it has given a text.
func until(t *testing.T, c *net.UnixConn, text string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(got.String(), text); {
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatalf("no %q in %q: %v", text, got.String(), err)
		}
		got.Write(b)
	}
}

func TestAttach(t *testing.T) {
	n := startNode(t)
	wait, open := n.gate("go")
	req := n.request("a", "echo old; "+wait+"echo out; echo err >&2; printf end; exit 3")
	n.create(req)
	n.eventually("old output in the log", func() bool { b, err := os.ReadFile(req.LogPath); return err == nil && len(b) > 0 })
	both := n.attach(AttachRequest{ID: "a", Stdin: true, Stdout: true, Stderr: true})
	onlyErr := n.attach(AttachRequest{ID: "a", Stderr: true})
	none := n.attach(AttachRequest{ID: "a"})
	if onlyErr.Stdin != nil || onlyErr.Stdout != nil || none.Stderr != nil {
		t.Error("streams that were not asked for")
	}
	open()
	if out, errs := everything(t, both.Stdout), everything(t, both.Stderr); out != "out\nend" || errs != "err\n" {
		t.Errorf("output is %q and %q", out, errs)
	}
	if errs := everything(t, onlyErr.Stderr); errs != "err\n" {
		t.Errorf("stderr is %q", errs)
	}
	for _, a := range []*Attachment{both, onlyErr, none} {
		if err := a.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	n.exit("a")
	if _, err := n.s.Attach(t.Context(), AttachRequest{ID: "a"}); !errors.Is(err, ErrState) {
		t.Errorf("exited container: %v", err)
	}
	if _, err := n.s.Attach(t.Context(), AttachRequest{ID: "b"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown container: %v", err)
	}
}

// Clients that read get every byte while the container floods its log, one
// that does not is dropped, and neither is felt by the log.
func TestAttachFlood(t *testing.T) {
	n := startNode(t)
	wait, open := n.gate("go")
	const size = 24 << 20
	req := n.request("f", wait+fmt.Sprintf("yes 'this is a line of the flood' | head -c %d; yes errors | head -c 1000000 >&2", size))
	n.create(req)
	slow := n.attach(AttachRequest{ID: "f", Stdout: true, Stderr: true})
	var clients []*Attachment
	for range 50 {
		clients = append(clients, n.attach(AttachRequest{ID: "f", Stdout: true, Stderr: true}))
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sums := make([]string, len(clients))
	var reading sync.WaitGroup
	for i, a := range clients {
		errs := crc32.New(table)
		var streams sync.WaitGroup
		streams.Go(func() { _, _ = io.Copy(errs, a.Stderr) })
		reading.Go(func() {
			sum := crc32.New(table)
			if _, err := io.Copy(sum, a.Stdout); err != nil {
				t.Error(err)
			}
			streams.Wait()
			if err := a.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			sums[i] = fmt.Sprintf("%x %x", sum.Sum32(), errs.Sum32())
		})
	}
	start := time.Now()
	open()
	n.exit("f")
	t.Logf("%d clients, exit after %v", len(clients), time.Since(start))
	reading.Wait()
	t.Logf("all is delivered after %v", time.Since(start))
	log := readLog(t, req.LogPath)
	want := fmt.Sprintf("%x %x", crc32.Checksum([]byte(output(log, "stdout")), table), crc32.Checksum([]byte(output(log, "stderr")), table))
	for i, sum := range sums {
		if sum != want {
			t.Errorf("client %d got other bytes than the log", i)
		}
	}
	if err := slow.Wait(t.Context()); !errors.Is(err, ErrSlow) || !strings.Contains(err.Error(), "bytes wait for it") {
		t.Errorf("error of the slow client is %v", err)
	}
	if e := n.exit("f"); e.LogBytesDropped != 0 {
		t.Errorf("exit is %+v", e)
	}
}

// Many containers with clients that do not read: memory is bounded, the others
// go on.
func TestAttachMemory(t *testing.T) {
	n := startNode(t)
	wait, open := n.gate("go")
	var slow []*Attachment
	for i := range 12 {
		id := fmt.Sprintf("m%d", i)
		n.create(n.request(id, wait+"yes | head -c 3500000; exec sleep 1000"))
		slow = append(slow, n.attach(AttachRequest{ID: id, Stdout: true}))
	}
	echo := n.request("echo", "exec cat")
	echo.Stdin = true
	n.create(echo)
	good := n.attach(AttachRequest{ID: "echo", Stdin: true, Stdout: true})
	open()
	dropped := make(chan error, len(slow))
	for _, a := range slow {
		go func() { dropped <- a.Wait(t.Context()) }()
	}
	// 12 times 3.5 MB is 8 MB too many.
	for range 2 {
		if err := <-dropped; !errors.Is(err, ErrSlow) {
			t.Fatal(err)
		}
	}
	if _, err := good.Stdin.Write([]byte("well\n")); err != nil {
		t.Fatal(err)
	}
	until(t, good.Stdout, "well\n")
	for _, a := range slow {
		_ = a.Close()
	}
	for range len(slow) - 2 {
		<-dropped
	}
}

func TestAttachStdin(t *testing.T) {
	n := startNode(t)
	t.Run("stays open", func(t *testing.T) {
		req := n.request("open", "exec cat")
		req.Stdin = true
		n.create(req)
		for i := range 3 {
			a := n.attach(AttachRequest{ID: "open", Stdin: true, Stdout: true})
			text := fmt.Sprintf("client %d\n", i)
			if _, err := io.WriteString(a.Stdin, text); err != nil {
				t.Fatal(err)
			}
			until(t, a.Stdout, text)
			if err := a.Stdin.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				continue // goes at the end
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.s.CloseStdin(t.Context(), "open"); err != nil {
			t.Fatal(err)
		}
		if e := n.exit("open"); e.Code != 0 {
			t.Errorf("exit is %+v", e)
		}
	})
	t.Run("many write", func(t *testing.T) {
		req := n.request("many", "exec wc -c")
		req.Stdin = true
		n.create(req)
		var writing sync.WaitGroup
		for range 20 {
			a := n.attach(AttachRequest{ID: "many", Stdin: true})
			writing.Go(func() {
				if _, err := a.Stdin.Write(make([]byte, 300_000)); err != nil {
					t.Error(err)
				}
				_ = a.Stdin.CloseWrite()
				_, _ = a.Stdin.Read(make([]byte, 1)) // the monitor has delivered it
			})
		}
		writing.Wait()
		if err := n.s.CloseStdin(t.Context(), "many"); err != nil {
			t.Fatal(err)
		}
		n.exit("many")
		if out := output(readLog(t, req.LogPath), "stdout"); out != "6000000\n" {
			t.Errorf("the container got %q bytes", out)
		}
	})
	t.Run("is not read", func(t *testing.T) {
		req := n.request("deaf", "exec sleep 1000")
		req.Stdin = true
		c := n.create(req)
		a := n.attach(AttachRequest{ID: "deaf", Stdin: true, Stdout: true})
		b := n.attach(AttachRequest{ID: "deaf", Stdin: true, Stdout: true})
		if err := a.Stdin.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if k, err := a.Stdin.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes fit, %v", k, err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		go func() { _, _ = b.Stdin.Write(make([]byte, 8<<20)) }()
		if err := c.Process.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := b.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		n.exit("deaf")
	})
	t.Run("there is none", func(t *testing.T) {
		wait, open := n.gate("go")
		n.create(n.request("none", wait+"cat; echo done"))
		a := n.attach(AttachRequest{ID: "none", Stdin: true, Stdout: true})
		if everything(t, a.Stdin) != "" {
			t.Error("stdin talks")
		}
		open()
		if out := everything(t, a.Stdout); out != "done\n" {
			t.Errorf("output is %q", out)
		}
	})
}

// The first client's end is the container's, however it comes.
func TestAttachStdinOnce(t *testing.T) {
	n := startNode(t)
	for name, end := range map[string]func(a *Attachment) error{
		"half":    func(a *Attachment) error { return a.Stdin.CloseWrite() },
		"gone":    func(a *Attachment) error { return a.Close() },
		"crash":   func(*Attachment) error { n.killMonitor(); return nil },
		"upgrade": func(*Attachment) error { return n.s.Upgrade(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			req := n.request(name, "cat; echo done")
			req.Stdin, req.StdinOnce = true, true
			n.create(req)
			if name == "crash" { // without a client, stdin survives
				n.killMonitor()
			}
			a := n.attach(AttachRequest{ID: name, Stdin: true, Stdout: true})
			other := n.attach(AttachRequest{ID: name, Stdin: true})
			if _, err := io.WriteString(a.Stdin, "hello\n"); err != nil {
				t.Fatal(err)
			}
			until(t, a.Stdout, "hello\n")
			if err := end(a); err != nil {
				t.Fatal(err)
			}
			n.exit(name)
			if name == "half" {
				if out := everything(t, a.Stdout); out != "done\n" {
					t.Errorf("output is %q", out)
				}
			}
			if err := other.Wait(t.Context()); err != nil && !errors.Is(err, ErrMonitorLost) {
				t.Error(err)
			}
			if out := output(readLog(t, req.LogPath), "stdout"); out != "hello\ndone\n" {
				t.Errorf("log is %q", out)
			}
		})
	}
}

func TestAttachTTY(t *testing.T) {
	n := startNode(t)
	req := n.request("tty", "stty -echo; echo ready; read x; echo got $x; stty size; read x; exit 5")
	req.TTY = true
	// Not before somebody looks.
	wait, open := n.gate("go")
	req.Argv[len(req.Argv)-1] = wait + req.Argv[len(req.Argv)-1]
	n.create(req)
	a := n.attach(AttachRequest{ID: "tty", Stdin: true, Stdout: true})
	b := n.attach(AttachRequest{ID: "tty", Stdin: true, Stdout: true})
	open()
	until(t, a.Stdout, "ready\r\n")
	if err := n.s.Resize(t.Context(), "tty", 99, 33); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(a.Stdin, "hello\n"); err != nil {
		t.Fatal(err)
	}
	until(t, a.Stdout, "got hello\r\n33 99\r\n")
	// The end of a client's stdin, and its going, are nobody else's business.
	if err := errors.Join(a.Stdin.CloseWrite(), a.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(b.Stdin, "more\n"); err != nil {
		t.Fatal(err)
	}
	if out := everything(t, b.Stdout); out != "ready\r\ngot hello\r\n33 99\r\n" {
		t.Errorf("output is %q", out)
	}
	if err := b.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if e := n.exit("tty"); e.Code != 5 {
		t.Errorf("exit is %+v", e)
	}
}

// A monitor that dies takes its clients along and nothing else.
func TestAttachCrash(t *testing.T) {
	n := startNode(t)
	wait, open := n.gate("go")
	req := n.request("c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; "+wait+"echo line 20000; cat")
	req.Stdin = true
	n.create(req)
	for _, end := range []func() error{func() error { n.killMonitor(); return nil }, func() error { return n.s.Upgrade(t.Context()) }} {
		a := n.attach(AttachRequest{ID: "c", Stdin: true, Stdout: true})
		if err := end(); err != nil {
			t.Fatal(err)
		}
		_ = everything(t, a.Stdout)
		if err := a.Wait(t.Context()); !errors.Is(err, ErrMonitorLost) {
			t.Errorf("error is %v", err)
		}
	}
	a := n.attach(AttachRequest{ID: "c", Stdin: true, Stdout: true})
	open()
	until(t, a.Stdout, "line 20000\n")
	if err := n.s.CloseStdin(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if out := everything(t, a.Stdout); out != "" {
		t.Errorf("output is %q", out)
	}
	n.exit("c")
	if lines := checkNumbered(t, output(readLog(t, req.LogPath), "stdout"), "line"); lines != 20001 {
		t.Errorf("%d lines", lines)
	}
}

// A container's exit does not wait for its clients, nor they for each other.
func TestAttachExit(t *testing.T) {
	n := startNode(t)
	wait, open := n.gate("go")
	const size = 2 << 20
	n.create(n.request("e", wait+fmt.Sprintf("yes | head -c %d", size)))
	a := n.attach(AttachRequest{ID: "e", Stdout: true})
	open()
	n.exit("e")
	if err := n.s.Forget(t.Context(), "e"); err != nil {
		t.Fatal(err)
	}
	if out := everything(t, a.Stdout); len(out) != size {
		t.Errorf("%d bytes", len(out))
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// Nothing of an attach is left in the monitor.
func TestAttachLeaksNothing(t *testing.T) {
	n := startNode(t)
	req := n.request("l", "exec cat")
	req.Stdin = true
	n.create(req)
	count := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.s.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	a := n.attach(AttachRequest{ID: "l", Stdin: true, Stdout: true, Stderr: true})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	before := count()
	var wait sync.WaitGroup
	for i := range 100 {
		wait.Go(func() {
			a, err := n.s.Attach(t.Context(), AttachRequest{ID: "l", Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				_, _ = io.WriteString(a.Stdin, "x\n")
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	n.eventually("no more descriptors than before", func() bool { return count() <= before })
}
