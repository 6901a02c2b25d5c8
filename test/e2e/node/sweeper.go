package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// sweeper is the process that purges a node when this one ends without doing so
// (test/e2e/sweeper): the daemon and the monitor are made to outlive others, and
// would hold locks, ports and addresses for ever. It reads from a pipe that the
// kernel closes with this process.
type sweeper struct {
	process *exec.Cmd
	pipe    io.WriteCloser
}

// traces is what a sweeper is told of its node.
type traces struct{ Dir, Bridge, CgroupParent, Network string }

// startSweeper watches over a node whose directory is there.
func (n *Node) startSweeper() error {
	log, err := os.Create(filepath.Join(n.Dir, "sweeper.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s := &sweeper{process: exec.Command(n.options.Binaries.Sweeper)}
	s.process.Stdout, s.process.Stderr = log, log
	s.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal to the tests reaches it
	if s.pipe, err = s.process.StdinPipe(); err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("start sweeper: %w", err)
	}
	n.sweeper = s
	err = json.NewEncoder(s.pipe).Encode(traces{Dir: n.Dir, Bridge: n.Bridge, CgroupParent: n.CgroupParent, Network: n.network})
	if err != nil {
		return fmt.Errorf("tell sweeper: %w", err)
	}
	return nil
}

// release ends the sweeper: its node has been purged.
func (s *sweeper) release() error {
	_, err := io.WriteString(s.pipe, "true\n")
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		err = nil // Abandon
	}
	if err = errors.Join(err, s.process.Wait()); err != nil {
		return fmt.Errorf("end sweeper: %w", err)
	}
	return nil
}

// Abandon makes the sweeper believe that this process has ended.
func (n *Node) Abandon() error { return n.sweeper.pipe.Close() }

// Sweep is the sweeper: it reads which node it is for, and purges it when in ends
// without the word that somebody else has.
func Sweep(ctx context.Context, in io.Reader) error {
	words := json.NewDecoder(in)
	var t traces
	if err := words.Decode(&t); err != nil {
		return fmt.Errorf("read what to sweep: %w", err)
	}
	var purged bool
	if err := words.Decode(&purged); !errors.Is(err, io.EOF) {
		return err
	}
	n := &Node{
		Dir: t.Dir, Root: filepath.Join(t.Dir, "root"), State: filepath.Join(t.Dir, "state"),
		Bridge: t.Bridge, CgroupParent: t.CgroupParent, network: t.Network,
	}
	return n.Purge(ctx)
}
