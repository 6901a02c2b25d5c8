package tracing

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Bounds of the queue. A span takes about a kilobyte, and a start of a pod with
// one container makes some twenty.
const (
	queueLength = 4096
	batchLength = 512
	// batchDelay is how long a span may wait for others to go with it.
	batchDelay = 2 * time.Second
	// exportTimeout bounds one batch, with its repetitions.
	exportTimeout = 10 * time.Second
)

// queue is a span processor that never blocks and counts what it loses. The
// library's own does not tell.
type queue struct {
	exporter sdktrace.SpanExporter
	spans    chan sdktrace.ReadOnlySpan
	dropped  atomic.Uint64

	// stop says that what is queued is all there will be; kill ends the export
	// under way.
	stop chan struct{}
	kill context.CancelFunc
	done chan struct{}
	end  sync.Once
}

var _ sdktrace.SpanProcessor = (*queue)(nil)

// newQueue begins to send; Shutdown ends that.
func newQueue(ctx context.Context, e sdktrace.SpanExporter) *queue {
	q := &queue{
		exporter: e,
		spans:    make(chan sdktrace.ReadOnlySpan, queueLength),
		stop:     make(chan struct{}), done: make(chan struct{}),
	}
	ctx, q.kill = context.WithCancel(context.WithoutCancel(ctx))
	go q.run(ctx)
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (q *queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	select {
	case <-q.stop:
		q.dropped.Add(1)
		return
	default:
	}
	select {
	case q.spans <- s:
	default:
		q.dropped.Add(1)
	}
}

// run sends batches until there will be no more.
func (q *queue) run(ctx context.Context) {
	defer close(q.done)
	batch := make([]sdktrace.ReadOnlySpan, 0, batchLength)
	for {
		// Nothing to do wakes nobody up.
		select {
		case s := <-q.spans:
			batch = append(batch, s)
		case <-q.stop:
			q.rest(ctx)
			return
		}
		batch = q.fill(batch)
		q.export(ctx, batch)
		clear(batch)
		batch = batch[:0]
	}
}

// fill waits a while for more.
func (q *queue) fill(batch []sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	timer := time.NewTimer(batchDelay)
	defer timer.Stop()
	for len(batch) < batchLength {
		select {
		case s := <-q.spans:
			batch = append(batch, s)
		case <-timer.C:
			return batch
		case <-q.stop:
			return batch
		}
	}
	return batch
}

// rest sends what is queued.
func (q *queue) rest(ctx context.Context) {
	var batch []sdktrace.ReadOnlySpan
	for {
		select {
		case s := <-q.spans:
			batch = append(batch, s)
			if len(batch) == batchLength {
				q.export(ctx, batch)
				batch = nil
			}
		default:
			q.export(ctx, batch)
			return
		}
	}
}

func (q *queue) export(ctx context.Context, batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	if err := q.exporter.ExportSpans(ctx, batch); err != nil {
		q.dropped.Add(uint64(len(batch))) // a collector that is gone is not worth a line each second
	}
}

// ForceFlush implements sdktrace.SpanProcessor. Nobody needs it.
func (q *queue) ForceFlush(context.Context) error { return nil }

// Shutdown sends what is queued, as long as ctx lasts.
func (q *queue) Shutdown(ctx context.Context) error {
	q.end.Do(func() { close(q.stop) })
	defer q.kill()
	select {
	case <-q.done:
	case <-ctx.Done():
		q.kill()
		<-q.done
	}
	return q.exporter.Shutdown(ctx)
}
