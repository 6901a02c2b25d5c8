package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/crilog"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

func walkFiles(dir string, visit func(path string, info os.FileInfo)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			visit(path, info)
		}
		return nil
	})
}

// exactExits reports whether the kernel tells the exit code of a process to
// whoever holds its pidfd (PIDFD_GET_INFO, Linux 6.15).
func exactExits(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 15
}

// writers starts containers that write numbered lines to both streams until
// they are told to stop; the n-th exits with 11+n.
func (e *env) writers(p *pod, n int) []*container {
	e.Helper()
	var all []*container
	for i := range n {
		all = append(all, e.start(p, fmt.Sprint("writer", i), []string{
			"probe", "log", "-lines", "0", "-rate", "500", "-stderr", "-until", "/tmp/stop", "-exit", fmt.Sprint(11 + i),
		}))
	}
	for _, c := range all {
		e.logHas(c, "out 00000020")
	}
	return all
}

// goOn waits until each log has grown and is whole.
func (e *env) goOn(all []*container) {
	e.Helper()
	for _, c := range all {
		start := e.lastLine(c)
		e.eventually(20*time.Second, func() error {
			if last := e.lastLine(c); last < start+50 {
				return fmt.Errorf("log of %s goes from %d to %d only", c.config.Metadata.Name, start, last)
			}
			return nil
		})
	}
}

func (e *env) lastLine(c *container) int {
	e.Helper()
	last := 0
	e.eventually(5*time.Second, func() error { // the last line may be half written
		entries, err := crilog.Read(c.log)
		if err != nil {
			return err
		}
		for stream, prefix := range map[string]string{"stderr": "err ", "stdout": "out "} {
			if last, err = crilog.Contiguous(entries, stream, prefix); err != nil {
				e.Fatalf("log of %s: %v", c.config.Metadata.Name, err)
			}
		}
		return nil
	})
	return last
}

// stopWriters ends them and checks exit codes and logs; every line they wrote
// must be there once. An older kernel may not tell how they ended, as they have
// outlived their monitor.
func (e *env) stopWriters(all []*container) {
	e.Helper()
	for _, c := range all {
		e.tellStop(c)
	}
	for i, c := range all {
		s := e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 30*time.Second)
		if exactExits(e.T) || s.ExitCode != 255 || s.Reason != "ExitCodeLost" {
			equal(e, "exit code", s.ExitCode, int32(11+i))
		}
		e.whole(c, 0)
	}
}

// whole checks that both streams of a log end at the same line (that number, if
// it is not 0) without gap or repetition.
func (e *env) whole(c *container, lines int) {
	e.Helper()
	entries, err := crilog.Read(c.log)
	e.must(err)
	out, err := crilog.Contiguous(entries, "stdout", "out ")
	if err != nil {
		e.Errorf("log of %s: %v", c.config.Metadata.Name, err)
	}
	stderr, err := crilog.Contiguous(entries, "stderr", "err ")
	if err != nil {
		e.Errorf("log of %s: %v", c.config.Metadata.Name, err)
	}
	if out != stderr || lines != 0 && out != lines {
		e.Errorf("log of %s ends at line %d of stdout and %d of stderr, want %d", c.config.Metadata.Name, out, stderr, lines)
	}
}

// newMonitor waits until another monitor runs.
func (e *env) newMonitor(old []usage.Process) {
	e.Helper()
	e.eventually(10*time.Second, func() error {
		now, err := e.node.Monitors()
		if err == nil && (len(now) != 1 || len(old) == 1 && now[0].PID == old[0].PID) {
			err = fmt.Errorf("monitors are %v", now)
		}
		return err
	})
}

// TestMonitorKilled kills the monitor under writing containers, three times, and
// with containers that end around it.
func TestMonitorKilled(t *testing.T) {
	e := ownNode(t, node.Options{Number: 8})
	p := e.runPod("")
	all := e.writers(p, 5)
	for round := range 3 {
		var short []*container
		for i := range 3 {
			short = append(short, e.start(p, fmt.Sprintf("short-%d-%d", round, i), []string{
				"probe", "log", "-lines", fmt.Sprint(20 + 80*i), "-rate", "1000", "-stderr", "-exit", fmt.Sprint(21 + i),
			}))
		}
		old, err := e.node.Monitors()
		e.must(err)
		e.must(e.node.KillMonitor())
		e.newMonitor(old)
		e.goOn(all)
		for i, c := range short {
			s := e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
			if exactExits(t) || s.ExitCode != 255 {
				equal(e, "exit code", s.ExitCode, int32(21+i))
			}
			e.whole(c, 20+80*i)
		}
		for _, c := range all {
			equal(e, "state", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
		}
	}
	// What it is no child of it can still stop, exec into and update.
	e.exec(all[0].id, "true")
	c := e.start(p, "after", []string{"sh", "-c", "exit 5"})
	equal(e, "exit code of a container started later", e.ended(c).status.ExitCode, 5)
	e.stopWriters(all)
}

// TestBothKilled kills daemon and monitor at once.
func TestBothKilled(t *testing.T) {
	e := ownNode(t, node.Options{Number: 9})
	p := e.runPod("")
	all := e.writers(p, 5)
	ending := e.start(p, "ending", []string{"probe", "trap", "-exit", "44"})
	e.logHas(ending, "ready")
	process := e.process(ending)
	e.must(e.node.Kill())
	e.must(e.node.KillMonitor())
	for _, c := range all {
		if !usage.Alive(e.process(c)) {
			t.Errorf("container %s has died", c.config.Metadata.Name)
		}
	}
	// Nobody is there to see this end.
	e.must(unix.Kill(process.PID, unix.SIGTERM))
	e.eventually(10*time.Second, func() error {
		if usage.Alive(process) {
			return errors.New("container is still alive")
		}
		return nil
	})
	e.must(e.node.Restart(t.Context()))
	e.newMonitor(nil)
	s := e.await(ending.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
	if s.ExitCode != 44 && (s.ExitCode != 255 || s.Reason != "ExitCodeLost") {
		t.Errorf("exit nobody saw is %d, %s", s.ExitCode, s.Reason)
	}
	e.goOn(all)
	e.stopWriters(all)
}

// TestReboot takes away what a reboot takes away.
func TestReboot(t *testing.T) {
	e := ownNode(t, node.Options{Number: 10})
	running, stopped := e.runPod(""), e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-2" })
	ran := e.start(running, "ran", []string{"sleep", "1000"})
	created := e.create(running, "created", []string{"true"})
	ended := e.start(stopped, "ended", []string{"sh", "-c", "exit 6"})
	e.ended(ended)
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), stopped.id))
	e.must(e.node.Reboot(t.Context()))
	e.must(e.node.Restart(t.Context()))

	pods, err := e.node.Runtime.ListPodSandbox(t.Context(), nil)
	e.must(err)
	equal(e, "pods", len(pods), 2)
	for _, p := range pods {
		equal(e, "state of the pod", p.State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	}
	for _, c := range []*container{ran, created, ended} {
		s := e.status(c.id)
		equal(e, "state of "+c.config.Metadata.Name, s.State, runtimeapi.ContainerState_CONTAINER_EXITED)
		if s.Reason == "" || s.FinishedAt == 0 {
			t.Errorf("%s has reason %q and finished at %d", c.config.Metadata.Name, s.Reason, s.FinishedAt)
		}
	}
	equal(e, "exit code from before", e.status(ended.id).ExitCode, 6)
	if code := e.status(ran.id).ExitCode; code == 0 {
		t.Error("a container that the reboot ended has exit code 0")
	}
	// kubelet makes the next attempt beside the old one.
	config := e.node.Pod("x").Config()
	config.Metadata = &runtimeapi.PodSandboxMetadata{Name: running.config.Metadata.Name, Namespace: running.config.Metadata.Namespace, Uid: running.config.Metadata.Uid, Attempt: 1}
	next := e.runPodConfig("", config)
	equal(e, "exit code in the new pod", e.runs(next, "c", []string{"sh", "-c", "exit 8"}).status.ExitCode, 8)
}

// tellStop ends a container that looks for /tmp/stop; it may be gone before the
// command that tells it is.
func (e *env) tellStop(c *container) {
	e.Helper()
	_, _, _ = e.node.Runtime.ExecSync(e.Context(), c.id, []string{"touch", "/tmp/stop"}, pace.Limit(20*time.Second))
}
