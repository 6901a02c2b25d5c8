package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// record is node.json, by which another program of tests finds a kept node.
type record struct {
	Options Options
	Seed    int
	Daemon  usage.Process
}

// note writes node.json.
func (n *Node) note() error {
	p, _, err := usage.Get(n.daemon.Process.Pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{Options: n.options, Seed: n.seed, Daemon: p})
	if err != nil {
		return fmt.Errorf("note node: %w", err)
	}
	return os.WriteFile(filepath.Join(n.Dir, "node.json"), data, 0o600)
}

// Attach goes on with the node that another program of tests kept in the
// directory, and starts its daemon where it does not run.
func Attach(ctx context.Context, dir string) (*Node, error) {
	data, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read note of node: %w", err)
	}
	n := &Node{options: r.Options, seed: r.Seed}
	n.layout(dir, r.Options)
	host, err := invariant.Host()
	if err != nil {
		return nil, fmt.Errorf("look at the host: %w", err)
	}
	if usage.Alive(r.Daemon) {
		err = errors.Join(n.adopt(r.Daemon.PID), n.Connect(ctx))
	} else {
		err = n.Restart(ctx)
	}
	if err != nil {
		return nil, err
	}
	n.Watch, err = invariant.NewWatch(host, n.InvariantConfig())
	return n, err
}

// adopt makes the process, which is no child of this one, the daemon.
func (n *Node) adopt(pid int) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open daemon: %w", err)
	}
	n.daemon, n.exited = &exec.Cmd{Process: process}, make(chan struct{})
	go func(exited chan struct{}) { // ends with the daemon, or with the tests
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				close(exited)
				return
			}
		}
	}(n.exited)
	return nil
}

// UseProgram has the daemon started from another executable from now on.
func (n *Node) UseProgram(path string) { n.options.Binaries.Node = path }
