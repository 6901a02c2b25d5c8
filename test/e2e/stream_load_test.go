package e2e

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// openFiles counts the open files of the daemon and the monitor.
func (e *env) openFiles() int {
	e.Helper()
	daemon, err := e.node.Daemon()
	e.must(err)
	all, err := e.node.Monitors()
	e.must(err)
	n := 0
	for _, p := range append(all, daemon) {
		count, err := usage.Descriptors(p.PID)
		e.must(err)
		n += count
	}
	return n
}

// backTo waits until no more files are open than before, give or take the
// poller's.
func (e *env) backTo(before int) {
	e.Helper()
	e.eventually(30*time.Second, func() error {
		if now := e.openFiles(); now > before+4 {
			return fmt.Errorf("%d files are open, %d were before", now, before)
		}
		return nil
	})
}

// TestStreamManyExecs runs hundreds at a time.
func TestStreamManyExecs(t *testing.T) {
	e := ownNode(t, node.Options{Number: 31, LogLevel: 2})
	c := e.start(e.runPod("crun"), "c", []string{"sleep", "1000"})
	e.must(e.stream(overSPDY, c.id, remotecommand.StreamOptions{Stdout: io.Discard}, "true"))
	before := e.openFiles()
	var all sync.WaitGroup
	for i := range pace.Count(500, 50) {
		all.Go(func() {
			client := []streamClient{overSPDY, overWebSocket}[i%2]
			out := &screen{}
			if err := e.stream(client, c.id, remotecommand.StreamOptions{Stdout: out}, "echo", fmt.Sprint("number ", i)); err != nil {
				e.Errorf("exec %d: %v", i, err)
			} else if err := out.has(fmt.Sprintf("number %d\n", i))(); err != nil {
				e.Error(err)
			}
		})
	}
	all.Wait()
	e.backTo(before)
}

// stuck is a client that does not read.
type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

// TestStreamManyClients attaches 50, one of which does not read; the log is
// complete all the same.
func TestStreamManyClients(t *testing.T) {
	e := ownNode(t, node.Options{Number: 32, LogLevel: 2})
	p := e.runPod("crun")
	const lines = 40_000
	c := e.start(p, "c", []string{"sh", "-c", fmt.Sprintf("until read -t 1 go; do echo waiting; done; seq %d", lines)}, func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	before := e.openFiles()
	last := fmt.Sprintf("\n%d\n", lines)
	block := make(stuck)
	var all, stuckOnes sync.WaitGroup
	stuckOnes.Go(func() { _ = e.attach(overSPDY, c.id, remotecommand.StreamOptions{Stdout: block}) })
	outs := make([]screen, 50)
	for i := range outs {
		all.Go(func() {
			client := []streamClient{overSPDY, overWebSocket}[i%2]
			if err := e.attach(client, c.id, remotecommand.StreamOptions{Stdout: &outs[i]}); err != nil {
				e.Errorf("client %d: %v", i, err)
			}
		})
	}
	for i := range outs { // all are there
		e.eventually(30*time.Second, outs[i].has("waiting\n"))
	}
	in, typist := io.Pipe()
	all.Go(func() {
		if err := e.attach(overSPDY, c.id, remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard}); err != nil {
			e.Errorf("typist: %v", err)
		}
	})
	_, err := io.WriteString(typist, "go\n")
	e.must(err)
	e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 60*time.Second)
	all.Wait()
	e.must(typist.Close())
	for i := range outs {
		if err := outs[i].has(last)(); err != nil {
			e.Errorf("client %d has not seen the end", i)
		}
	}
	if r := e.ended(c); len(r.stdout) < lines*6-11_200 {
		e.Errorf("the log has %d bytes", len(r.stdout))
	}
	close(block)
	stuckOnes.Wait()
	e.backTo(before)
}

// TestExecSyncMemory runs a command that says far more than fits an answer.
func TestExecSyncMemory(t *testing.T) {
	e := ownNode(t, node.Options{Number: 33, LogLevel: 2})
	c := e.start(e.runPod("crun"), "c", []string{"sleep", "1000"})
	e.exec(c.id, "true")
	daemon, err := e.node.Daemon()
	e.must(err)
	before := highest(e, daemon.PID)
	r, err := e.node.Raw.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: c.id, Cmd: []string{"probe", "flood", "-bytes", fmt.Sprint(1 << 30)}, Timeout: int64(pace.Limit(2 * time.Minute).Seconds()),
	}, maxReceive)
	e.must(err)
	if n := len(r.Stdout); n > 16<<20 || n < 15<<20 {
		e.Errorf("the answer has %d bytes", n)
	}
	if grown := highest(e, daemon.PID) - before; grown > 64<<20 {
		e.Errorf("the daemon grew by %d MiB", grown>>20)
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// highest is the most memory that a process ever had.
func highest(e *env, pid int) int64 {
	e.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	e.must(err)
	kib, err := strconv.ParseInt(string(highWater.FindSubmatch(b)[1]), 10, 64)
	e.must(err)
	return kib << 10
}
