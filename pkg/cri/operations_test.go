package cri

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/progress"
)

func TestOperationsJoin(t *testing.T) {
	o := &operations[string]{limit: time.Minute}
	var runs atomic.Int32
	release := make(chan struct{})
	work := func(context.Context, *progress.Stages) (string, error) {
		runs.Add(1)
		<-release
		return "id", nil
	}
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if id, err := o.do(t.Context(), "key", work); id != "id" || err != nil {
				t.Errorf("do = %q, %v", id, err)
			}
		})
	}
	for runs.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wait.Wait()
	o.close()
	if n := runs.Load(); n < 1 || n > 50 {
		t.Fatalf("%d executions", n)
	}
}

// A caller that gives up gets an error that names the stage; the work goes on,
// with a context that lives, and the next caller gets its result.
func TestOperationOutlivesItsCaller(t *testing.T) {
	o := &operations[string]{limit: time.Minute}
	defer o.close()
	release, entered := make(chan struct{}), make(chan struct{})
	work := func(ctx context.Context, at *progress.Stages) (string, error) {
		at.Enter(ctx, "first")
		at.Enter(ctx, "second")
		close(entered)
		<-release
		return "id", ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	_, err := o.do(ctx, "key", work)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "in second for") || !strings.Contains(err.Error(), "first") {
		t.Fatalf("error of the caller that left: %v", err)
	}
	close(release)
	id, err := o.do(t.Context(), "key", func(context.Context, *progress.Stages) (string, error) { return "id", nil })
	if id != "id" || err != nil {
		t.Fatalf("the next caller got %q, %v", id, err)
	}
}

func TestOperationsRefuseWhenClosedOrCancelled(t *testing.T) {
	o := &operations[string]{limit: time.Minute}
	work := func(context.Context, *progress.Stages) (string, error) { return "id", nil }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.do(ctx, "key", work); !errors.Is(err, context.Canceled) {
		t.Fatalf("work for nobody: %v", err)
	}
	o.close()
	if _, err := o.do(t.Context(), "key", work); !errdefs.IsUnavailable(err) {
		t.Fatalf("after close: %v", err)
	}
}

// A panic in the work is the answer of its callers, and not the daemon's end.
func TestOperationPanics(t *testing.T) {
	o := &operations[string]{limit: time.Minute}
	defer o.close()
	work := func(context.Context, *progress.Stages) (string, error) { panic("at the disco") }
	if _, err := o.do(t.Context(), "key", work); !errdefs.IsInternal(err) {
		t.Fatalf("got %v", err)
	}
	id, err := o.do(t.Context(), "key", func(context.Context, *progress.Stages) (string, error) { return "id", nil })
	if id != "id" || err != nil {
		t.Fatalf("afterwards: %q, %v", id, err)
	}
}
