package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// TestSweeper abandons a node as tests do that are killed: its daemon, its
// monitor, its pods and all that they have go.
func TestSweeper(t *testing.T) {
	n, err := shared.startNode(t.Context(), node.Options{Number: 14})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Purge(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	e := &env{T: t, node: n}
	config := n.Pod("abandoned").Config()
	id, err := n.Runtime.RunPodSandbox(t.Context(), config, "")
	e.must(err)
	e.start(&pod{id, config}, "c", []string{"sleep", "1000"})
	e.must(n.Abandon())
	e.eventually(20*time.Second, func() error {
		if _, err := os.Stat(n.Dir); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there: %w", n.Dir, err)
		}
		return nil
	})
	processes, err := usage.Match(n.State)
	e.must(err)
	inCgroup, err := usage.InCgroup(n.CgroupParent)
	e.must(err)
	if left := append(processes, inCgroup...); len(left) > 0 {
		t.Errorf("%d processes are left: %v", len(left), left)
	}
	left, err := invariant.Collect(n.InvariantConfig())
	e.must(err)
	if residue := invariant.Residue(nil, left); len(residue) > 0 {
		t.Errorf("left behind: %v", residue)
	}
}
