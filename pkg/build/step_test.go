package build

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/cri-node/cri-node/pkg/image"
)

// execOf runs what a test wants in the place of a process.
type execOf func(ctx context.Context, p Process) (int, error)

func (f execOf) Run(ctx context.Context, p Process) (int, error) { return f(ctx, p) }

// newRun is a build under way with a store of its own.
func newRun(t *testing.T, e Executor) *run {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	images, err := image.Open(t.Context(), image.Config{Root: filepath.Join(dir, "images")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), Config{Root: filepath.Join(dir, "build"), State: filepath.Join(dir, "state"), Images: images, Executor: e})
	if err != nil {
		t.Fatal(err)
	}
	r := &run{
		Builder: b, fail: func(error) {}, request: &Request{}, dir: filepath.Join(dir, "state"), disk: t.TempDir(),
		progress: newProgress(nil), locals: map[string]*local{},
	}
	t.Cleanup(func() {
		if err := r.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if err := images.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// A panic in one step, which runs in a goroutine of its own, fails the build and
// not the daemon, and whoever needs that step is told the same.
func TestStepPanics(t *testing.T) {
	r := newRun(t, execOf(func(context.Context, Process) (int, error) { panic("out of cheese") }))
	broken := &vertex{digest: "sha256:b", op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{
		Meta: &pb.Meta{Args: []string{"make", "all"}}, Mounts: []*pb.Mount{{Dest: pb.RootMount, Input: -1}},
	}}}}
	needs := func() *vertex { return &vertex{op: &pb.Op{Op: &pb.Op_Merge{}}, inputs: []*vertex{broken}} }
	last := &vertex{op: &pb.Op{Op: &pb.Op_Merge{}}, inputs: []*vertex{needs(), needs()}}
	_, err := r.solve(t.Context(), last)
	if !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "make all") || !strings.Contains(err.Error(), "out of cheese") {
		t.Errorf("got %v", err)
	}
	if _, err := r.solve(t.Context(), broken); !errdefs.IsInternal(err) {
		t.Errorf("asked again, the step says %v", err)
	}
}
