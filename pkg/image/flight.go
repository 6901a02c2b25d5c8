package image

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/progress"
)

// errAbandoned is why work ends that nobody waits for any more. Unlike at
// shutdown, nothing of it is kept.
var errAbandoned = errors.New("cancelled by all who waited for it")

// late adds to the error of a run that has waited for too long where the time
// went.
func late(ctx context.Context, err error) error {
	if errors.Is(err, errStalled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w (%s)", err, stagesOf(ctx))
	}
	return err
}

// flights lets callers that want the same thing at the same time share one
// run of it. Each waits with its own context; the run ends early only when the
// last one has left. A caller that comes while an abandoned run is still
// cleaning up waits for its end and starts another.
type flights[K comparable, V any] struct {
	mu      sync.Mutex
	running map[K]*flight[V]
	// title names a run where runs wait for it.
	title func(K) string
	// onStage, if set, is told of the stages of all runs.
	onStage func(stage string, took time.Duration)
}

type flight[V any] struct {
	waiters   int
	abandoned bool
	cancel    context.CancelCauseFunc
	done      chan struct{}
	value     V
	err       error
	// stages tells how far it is.
	stages *progress.Stages
}

// runKey finds, in a context of a run, its stages.
type runKey struct{}

// stagesOf returns the stages of the run that ctx belongs to, nil if to none.
func stagesOf(ctx context.Context) *progress.Stages {
	stages, _ := ctx.Value(runKey{}).(*progress.Stages)
	return stages
}

// do runs fn, or joins the run in progress. fn gets a context below root and
// is waited for through wg.
func (f *flights[K, V]) do(ctx, root context.Context, wg *sync.WaitGroup, key K, fn func(context.Context) (V, error)) (V, error) {
	for {
		var none V
		if err := ctx.Err(); err != nil {
			return none, err
		}
		f.mu.Lock()
		run := f.running[key]
		if run == nil {
			run = f.start(progress.Below(root, ctx), wg, key, fn)
		}
		dying := run.abandoned
		if !dying {
			run.waiters++
		}
		f.mu.Unlock()

		if outer := stagesOf(ctx); outer != nil {
			outer.Follow(f.title(key), run.stages)
		}
		select {
		case <-run.done:
			if !dying {
				return run.value, run.err
			}
		case <-ctx.Done():
			if dying {
				return none, ctx.Err()
			}
			stages := run.stages.String() // before it is told to end
			f.leave(run, context.Cause(ctx))
			return none, fmt.Errorf("%w (%s)", ctx.Err(), stages)
		}
	}
}

// start begins a run. The caller holds f.mu.
func (f *flights[K, V]) start(root context.Context, wg *sync.WaitGroup, key K, fn func(context.Context) (V, error)) *flight[V] {
	ctx, cancel := context.WithCancelCause(root)
	run := &flight[V]{cancel: cancel, done: make(chan struct{}), stages: progress.NewStages(ctx, f.onStage)}
	ctx = context.WithValue(progress.Listen(ctx, run.stages.Enter), runKey{}, run.stages)
	if f.running == nil {
		f.running = map[K]*flight[V]{}
	}
	f.running[key] = run
	wg.Go(func() {
		run.err = guard.Call(klog.FromContext(ctx), "work on an image", func() (err error) {
			run.value, err = fn(ctx)
			return err
		})
		run.stages.Finish(run.err)
		f.mu.Lock()
		delete(f.running, key)
		f.mu.Unlock()
		cancel(nil)
		close(run.done)
	})
	return run
}

// leave takes one waiter off a run. Where the last one leaves because of a
// shutdown or the failure of a sibling, that is the cause for the run as well;
// where its client went away, the run is abandoned.
func (f *flights[K, V]) leave(run *flight[V], cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	run.waiters--
	if run.waiters > 0 {
		return
	}
	run.abandoned = true
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		cause = errAbandoned
	}
	run.cancel(cause)
}
