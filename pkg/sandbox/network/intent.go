package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// intentDir is the directory of intents below Config.CacheDir.
const intentDir = "intents"

// intent is the record of one attachment: all that DEL needs.
type intent struct {
	Attachment Attachment `json:"attachment"`
	// File is where the network came from, "" for the embedded one.
	File string `json:"file,omitempty"`
	// Conf is the whole conflist.
	Conf json.RawMessage `json:"conf"`
	// InProcess says that plugins which can ran inside this process.
	InProcess bool `json:"inProcess,omitempty"`
}

func (n *Network) intentPath(id string) string {
	return filepath.Join(n.cfg.CacheDir, intentDir, id+".json")
}

func (n *Network) lockPath(id string) string {
	return filepath.Join(n.cfg.CacheDir, intentDir, id+".lock")
}

// saveIntent needs no fsync: where a power cut loses it, it also ends the pod
// and takes the links and rules; GC finds the reserved addresses.
func (n *Network) saveIntent(rec intent) error {
	return linux.SaveRecord(n.intentPath(rec.Attachment.ID), rec, linux.SurviveProcess)
}

// loadIntent returns fs.ErrNotExist for an id that is not known.
func (n *Network) loadIntent(id string) (*intent, error) {
	rec, _, err := linux.LoadRecord[intent](n.intentPath(id))
	if err != nil {
		return nil, err
	}
	return &rec, nil
}

// removeIntent ends an attachment. The lock goes first: without an intent
// nobody would ever look for it.
func (n *Network) removeIntent(id string) error {
	return errors.Join(removeFile(n.lockPath(id)), removeFile(n.intentPath(id)))
}

func (n *Network) intentIDs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(n.cfg.CacheDir, intentDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list network intents: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if linux.IsTemporary(e.Name()) {
			continue
		}
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const (
	// orphanGrace is how long a plugin process that an earlier operation left
	// behind may go on before it is killed.
	orphanGrace = 5 * time.Second
	// orphanPoll is how often to look: flock(2) cannot wait with a deadline.
	orphanPoll = 20 * time.Millisecond
	// forkTime is longer than a child of this process takes from fork to exec.
	// Until then it holds all our files, the lock among them.
	forkTime = time.Second
)

// awaitOrphans returns once no plugin process of an earlier operation on id
// lives, and kills those that take longer than orphanGrace. It returns the
// lock, or nil where no plugin process ever ran. Only plugin processes hold
// it: this process lets go of it at the end of each operation.
func (n *Network) awaitOrphans(ctx context.Context, id string) (*os.File, error) {
	path := n.lockPath(id)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	grace := orphanGrace
	if d, ok := ctx.Deadline(); ok {
		grace = min(grace, time.Until(d)/2) // the rest is for DEL
	}
	deadline := time.Now().Add(grace)
	seen := map[linux.Process]time.Time{}
	tick := time.NewTicker(orphanPoll)
	defer tick.Stop()
	for {
		lock, err := linux.Lock(path)
		if err == nil || !errors.Is(err, linux.ErrLocked) {
			return lock, err
		}
		holders, err := lockHolders(path)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		for _, p := range holders {
			if seen[p].IsZero() {
				seen[p] = now
			}
			if now.Before(deadline) || now.Sub(seen[p]) < forkTime {
				continue
			}
			if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return nil, fmt.Errorf("kill CNI plugin that still runs for %s: %w", id, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a CNI plugin that still runs for %s: %w", id, ctx.Err())
		case <-tick.C:
		}
	}
}

// lockHolders returns every other process that has path open.
func lockHolders(path string) ([]linux.Process, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []linux.Process
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The identity comes first: a pid that changes hands in between
		// makes a signal go nowhere, not to a stranger.
		if p, err := linux.FindProcess(pid); err == nil && hasOpen(pid, path) {
			out = append(out, p)
		}
	}
	return out, nil
}

func hasOpen(pid int, path string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // gone meanwhile
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && target == path {
			return true
		}
	}
	return false
}
