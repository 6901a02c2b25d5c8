package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// Daemon is the process of the daemon.
func (n *Node) Daemon() (usage.Process, error) {
	p, ok, err := usage.Get(n.daemon.Process.Pid)
	if err == nil && !ok {
		err = errors.New("the daemon does not run")
	}
	return p, err
}

// Monitors finds the monitors of this node.
func (n *Node) Monitors() ([]usage.Process, error) {
	found, err := usage.Match(n.State)
	found = slices.DeleteFunc(found, func(p usage.Process) bool {
		return len(p.Args) < 2 || p.Args[1] != "monitor"
	})
	// What a monitor has forked looks like it until it executes something else,
	// and has its very memory: it is no second one.
	monitor := map[int]bool{}
	for _, p := range found {
		monitor[p.PID] = true
	}
	return slices.DeleteFunc(found, func(p usage.Process) bool { return monitor[p.PPID] }), err
}

// Kill ends the daemon with SIGKILL and waits until it is gone.
func (n *Node) Kill() error {
	if err := n.daemon.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill daemon: %w", err)
	}
	<-n.exited
	return nil
}

// Stop ends the daemon with SIGTERM; it must be gone within the time.
func (n *Node) Stop(limit time.Duration) error {
	limit = pace.Limit(limit)
	if err := n.daemon.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("terminate daemon: %w", err)
	}
	select {
	case <-n.exited:
		return nil
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("the daemon does not end within %v of SIGTERM\n%s", limit, n.LogTail(20)), n.Kill())
	}
}

// Terminate sends SIGTERM to the daemon without waiting for it.
func (n *Node) Terminate() error { return n.daemon.Process.Signal(unix.SIGTERM) }

// Reload sends SIGHUP to the daemon.
func (n *Node) Reload() error { return n.daemon.Process.Signal(unix.SIGHUP) }

// KillMonitor ends the monitor with SIGKILL and waits until it is gone.
func (n *Node) KillMonitor() error {
	monitors, err := n.Monitors()
	if err != nil {
		return err
	}
	if len(monitors) != 1 {
		return fmt.Errorf("%d monitors run, not 1", len(monitors))
	}
	return kill(monitors...)
}

// kill ends processes and waits until they are gone or zombies.
func kill(processes ...usage.Process) error {
	for _, p := range processes {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		} else if err != nil {
			return fmt.Errorf("open process %d: %w", p.PID, err)
		}
		if usage.Alive(p) {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		if err == nil {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pace.Limit(5*time.Second).Milliseconds()))
		}
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("kill process %d: %w", p.PID, err)
		}
	}
	return nil
}

// NewBoot gives the machine, as this node sees it, a new boot id.
func (n *Node) NewBoot() error {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	id := fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	return os.WriteFile(n.bootID, []byte(id), 0o644)
}

// Reboot does to the node what a reboot of the machine does: every process,
// mount, namespace, link and cgroup of it goes, and the state directory; the
// boot id changes. The daemon is down afterwards.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.Kill(); err != nil {
		return err
	}
	if err := n.sweep(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(n.State); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(n.State, 0o755), n.NewBoot())
}

// Close stops the daemon and then the monitor. Containers are not touched.
func (n *Node) Close(ctx context.Context) error {
	n.disconnect(ctx)
	err := n.Stop(20 * time.Second)
	monitors, findErr := n.Monitors()
	return errors.Join(err, findErr, kill(monitors...))
}

// LogTail is the end of the daemon's log.
func (n *Node) LogTail(lines int) string {
	data, err := os.ReadFile(filepath.Join(n.Dir, "daemon.log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// LogSize and LogFrom give the part of the daemon's log that one test caused.
func (n *Node) LogSize() int64 {
	info, err := os.Stat(filepath.Join(n.Dir, "daemon.log"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// LogFrom is the daemon's log from an offset.
func (n *Node) LogFrom(offset int64) string {
	data, err := os.ReadFile(filepath.Join(n.Dir, "daemon.log"))
	if err != nil || offset > int64(len(data)) {
		return ""
	}
	return string(data[offset:])
}

// Gate is a closed gate of the node's runtime or network (see test/e2e/gate).
type Gate struct{ path string }

// CloseGate closes a gate: a runtime subcommand, or cni-ADD and cni-DEL.
func (n *Node) CloseGate(name string) (*Gate, error) {
	g := &Gate{path: filepath.Join(n.holdDir, name)}
	return g, os.WriteFile(g.path, nil, 0o600)
}

// Reached reports whether somebody stands before the gate.
func (g *Gate) Reached() bool {
	_, err := os.Stat(g.path + ".reached")
	return err == nil
}

// Open lets everybody through.
func (g *Gate) Open() error {
	return errors.Join(os.RemoveAll(g.path), os.RemoveAll(g.path+".reached"))
}

// RecordRuns makes the gates note with which TRACEPARENT they were run.
func (n *Node) RecordRuns() error { return os.WriteFile(n.recordPath(), nil, 0o600) }

// Runs are the TRACEPARENTs that gates were run with, by name as for CloseGate.
func (n *Node) Runs() (map[string][]string, error) {
	data, err := os.ReadFile(n.recordPath())
	if err != nil {
		return nil, err
	}
	runs := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		name, parent, _ := strings.Cut(strings.TrimSpace(line), " ")
		runs[name] = append(runs[name], parent)
	}
	return runs, nil
}

func (n *Node) recordPath() string { return filepath.Join(filepath.Dir(n.holdDir), "record") }

// RunSecond tries to start a second daemon with the same arguments, but for those
// that follow, which must end by itself, and returns what it said.
func (n *Node) RunSecond(ctx context.Context, but ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(10*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, n.options.Binaries.Node, append(n.arguments(), but...)...)
	out, err := cmd.CombinedOutput()
	return string(out), errors.Join(err, ctx.Err())
}
