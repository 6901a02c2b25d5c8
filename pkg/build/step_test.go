package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
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
		if err := r.close(); err != nil {
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

// A Dockerfile is refused where it is too large, and never cut.
func TestDockerfileTooLarge(t *testing.T) {
	large := "FROM scratch\n" + strings.Repeat("#"+strings.Repeat(" word", 1000)+"\n", maxDockerfile/4000) + "COPY . /\n"
	for name, given := range map[string]string{"in the request": large, "in the context": ""} {
		r := newRun(t, nil)
		dir := t.TempDir()
		write(t, filepath.Join(dir, "Dockerfile"), large)
		r.locals[dockerui.DefaultLocalNameContext] = &local{dir: dir}
		if given != "" {
			r.request.Dockerfile = []byte(given)
		}
		_, err := r.convert(t.Context())
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "at most 4194304 are allowed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRun(t, nil)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), large)
	if _, err := (&reference{run: r, result: result{dir: dir}}).ReadFile(t.Context(), client.ReadRequest{Filename: "f"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("read whole: %v", err)
	}
}

// filled makes a cache mount with so many bytes in it, and lets go of it.
func filled(t *testing.T, r *run, id string, size int) *cacheMount {
	t.Helper()
	c, err := r.mounts.use(t.Context(), id, pb.CacheSharingOpt_SHARED, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "f"), make([]byte, size), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Cache mounts count for the limit of the cache, and go by age, but for those in
// use.
func TestCacheMountsAreBounded(t *testing.T) {
	r := newRun(t, nil)
	r.config.CacheBytes = 7 << 19
	oldest := filled(t, r, "oldest", 2<<20) // used by a build under way
	var released []*cacheMount
	for _, id := range []string{"old", "new"} {
		c := filled(t, r, id, 1<<20)
		if err := c.release(); err != nil {
			t.Fatal(err)
		}
		released = append(released, c)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Dir(released[0].path), past, past); err != nil {
		t.Fatal(err)
	}
	u, err := r.Usage(t.Context())
	if err != nil || u.Mounts != 3 || u.Bytes < 4<<20 || u.InUse < 2<<20 || u.InUse >= 3<<20 {
		t.Errorf("usage is %+v, %v", u, err)
	}
	if err := r.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := func(c *cacheMount) bool { _, err := os.Lstat(c.path); return err == nil }
	if !there(oldest) || there(released[0]) || !there(released[1]) {
		t.Errorf("after a trim: in use %v, old %v, new %v", there(oldest), there(released[0]), there(released[1]))
	}
	// What is written into one counts when it is free.
	if err := os.WriteFile(filepath.Join(oldest.path, "g"), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := oldest.release(); err != nil {
		t.Fatal(err)
	}
	if err := r.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u, err := r.Usage(t.Context()); err != nil || u.Bytes != 0 || u.Mounts != 0 {
		t.Errorf("what is larger than the limit stays: %+v, %v", u, err)
	}
	if entries, err := os.ReadDir(r.mounts.dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A mount that is being filled keeps neither others nor the build's views from
// being found.
func TestFillingKeepsNobody(t *testing.T) {
	r := newRun(t, nil)
	filling, goOn := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		c, err := r.mounts.use(t.Context(), "slow", pb.CacheSharingOpt_SHARED, func(string) error {
			close(filling)
			<-goOn
			return nil
		})
		if err == nil {
			err = c.release()
		}
		ended <- err
	}()
	<-filling
	other := make(chan error, 1)
	go func() { other <- filled(t, r, "quick", 1).release() }()
	select {
	case err := <-other:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("another mount waits")
	}
	close(goOn)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Steps that lock the same cache mounts in different order wait for one another and
// not for ever, and none that waits keeps others from running.
func TestLockedMounts(t *testing.T) {
	running := make(chan struct{}, 100)
	r := newRun(t, execOf(func(_ context.Context, p Process) (int, error) {
		if len(p.Mounts) == 0 {
			running <- struct{}{}
		}
		return 1, nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	step := func(ids ...string) error {
		op := &pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}}, Mounts: []*pb.Mount{{Dest: pb.RootMount, Input: -1}}}
		for _, id := range ids {
			op.Mounts = append(op.Mounts, &pb.Mount{
				Dest: "/" + id, Input: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: id, Sharing: pb.CacheSharingOpt_LOCKED},
			})
		}
		_, err := r.exec(ctx, "", op, nil)
		return err
	}
	var all sync.WaitGroup
	for i := range 40 {
		ids := []string{"a", "b"}
		if i%2 == 1 {
			ids = []string{"b", "a"}
		}
		all.Go(func() {
			if exit, ok := errors.AsType[*ExitError](step(ids...)); !ok || exit.Code != 1 {
				t.Errorf("%v: %v", ids, exit)
			}
		})
	}
	all.Wait()
	if _, ok := errors.AsType[*ExitError](step("a", "a")); !ok {
		t.Error("a step waits for itself")
	}
	held, err := r.mounts.use(ctx, "a|"+(&result{}).identity(), pb.CacheSharingOpt_LOCKED, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * max(2, goruntime.NumCPU()) {
		all.Go(func() { _ = step("a") })
	}
	if err := step(); err == nil {
		t.Error("it has ended well")
	}
	select {
	case <-running:
	default:
		t.Error("a step without mounts waits for those with")
	}
	if err := held.release(); err != nil {
		t.Error(err)
	}
	all.Wait()
}
