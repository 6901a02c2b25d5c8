package cri

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/progress"
)

// operations joins calls that ask for the same thing to one execution of it,
// which goes on when a caller's deadline is over: kubelet sends a timed-out
// call again with the same metadata, and gets what the first one began.
type operations[K comparable] struct {
	// limit bounds one execution, and life all of them.
	limit time.Duration
	life  <-chan struct{}
	// method names the call, and metrics are told of its stages.
	method  string
	metrics *telemetry.Metrics
	// done, which may be nil, is told of the end of each execution.
	done func(key K, op *operation)

	mu      sync.Mutex
	running map[K]*operation
	all     sync.WaitGroup
	closed  bool
}

type operation struct {
	begin time.Time
	done  chan struct{} // closed when id and err are set
	id    string
	err   error
	stage func() string
}

// do runs f, or joins the execution of f under the same key. f gets a context
// that outlives the caller's.
func (o *operations[K]) do(ctx context.Context, key K, f func(ctx context.Context, at *progress.Stages) (string, error)) (string, error) {
	op, err := o.join(ctx, key, f)
	if err != nil {
		return "", err
	}
	select {
	case <-op.done:
		return op.id, op.err
	case <-ctx.Done():
		return "", fmt.Errorf("%w: the work goes on and the same call will find its result (%s)", context.Cause(ctx), op.stage())
	}
}

func (o *operations[K]) join(ctx context.Context, key K, f func(ctx context.Context, at *progress.Stages) (string, error)) (*operation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if op, ok := o.running[key]; ok {
		return op, nil
	}
	if o.closed {
		return nil, errShuttingDown
	}
	if err := ctx.Err(); err != nil {
		return nil, err // nobody waits for it
	}
	at := progress.NewStages(ctx, o.metrics.Stages(o.method))
	op := &operation{begin: time.Now(), done: make(chan struct{}), stage: at.String}
	if o.running == nil {
		o.running = map[K]*operation{}
	}
	o.running[key] = op
	o.all.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.limit)
		defer cancel()
		finished := make(chan struct{})
		o.all.Go(func() {
			select {
			case <-o.life:
				cancel()
			case <-finished:
			}
		})
		op.err = guard.Call(klog.FromContext(ctx), o.method, func() (err error) {
			op.id, err = f(progress.Listen(ctx, at.Enter), at)
			return err
		})
		close(finished)
		at.Finish(op.err)
		klog.FromContext(ctx).V(logStages).Info("Done", "id", op.id, "stages", at.String())
		if o.done != nil {
			o.done(key, op)
		}
		o.mu.Lock()
		delete(o.running, key)
		o.mu.Unlock()
		close(op.done)
	})
	return op, nil
}

// close refuses new executions and waits for those under way.
func (o *operations[K]) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.all.Wait()
}
