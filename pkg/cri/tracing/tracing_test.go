package tracing

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	otlp "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is an exporter under a test's control.
type collector struct {
	// hold, if set, keeps exports waiting until it is closed or they are given up.
	hold chan struct{}
	fail error

	mu    sync.Mutex
	spans []string
}

func (c *collector) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if c.hold != nil {
		select {
		case <-c.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.fail != nil {
		return c.fail
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range spans {
		c.spans = append(c.spans, s.Name())
	}
	return nil
}

func (c *collector) Shutdown(context.Context) error { return nil }

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.spans)
}

func provider(t *testing.T, c *collector, rate int) *Provider {
	t.Helper()
	return newProvider(t.Context(), Config{SamplingRatePerMillion: rate}, c)
}

func (p *Provider) spans(ctx context.Context, n int) {
	tracer := p.sdk.Tracer("test")
	for range n {
		_, span := tracer.Start(ctx, "span")
		span.End()
	}
}

func shutdown(t *testing.T, p *Provider, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestOff(t *testing.T) {
	p, err := Open(t.Context(), Config{SamplingRatePerMillion: million})
	if p != nil || err != nil {
		t.Fatalf("%v, %v", p, err)
	}
	if n := len(p.ServerOptions()); n != 0 || p.Dropped() != 0 || p.Shutdown(t.Context()) != nil {
		t.Errorf("%d options", n)
	}
}

func TestOpenRefusesAuthoritiesItCannotRead(t *testing.T) {
	if p, err := Open(t.Context(), Config{Endpoint: "localhost:4317", CAFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Errorf("%v", p)
	}
}

// Nothing listens at the address: calls notice nothing, and the end comes in time.
func TestCollectorThatIsGone(t *testing.T) {
	p, err := Open(t.Context(), Config{Endpoint: "127.0.0.1:1", Insecure: true, SamplingRatePerMillion: million})
	if err != nil {
		t.Fatal(err)
	}
	const n = 10
	p.spans(t.Context(), n)
	shutdown(t, p, 2*time.Second)
	if got := p.Dropped(); got != n {
		t.Errorf("%d spans dropped, want %d", got, n)
	}
}

// received is a collector over gRPC.
type received struct {
	otlp.UnimplementedTraceServiceServer
	spans atomic.Int32
}

func (r *received) Export(_ context.Context, request *otlp.ExportTraceServiceRequest) (*otlp.ExportTraceServiceResponse, error) {
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			r.spans.Add(int32(len(scope.Spans)))
		}
	}
	return &otlp.ExportTraceServiceResponse{}, nil
}

// The collector must show a certificate of the authorities, when there are any.
func TestTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil) // for its certificate, of 127.0.0.1
	defer certified.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, r := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certified.TLS.Certificates[0]))), &received{}
	otlp.RegisterTraceServiceServer(server, r)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() { server.Stop(); <-done }()
	for _, test := range []struct {
		name   string
		caFile string
		insec  bool
		limit  time.Duration
		came   int32
	}{
		{"authority of the collector", caFile, false, time.Minute, 1},
		{"authorities of the machine", "", false, 2 * time.Second, 0},
		{"no TLS", "", true, 2 * time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.spans.Store(0)
			p, err := Open(t.Context(), Config{Endpoint: listener.Addr().String(), CAFile: test.caFile, Insecure: test.insec, SamplingRatePerMillion: million})
			if err != nil {
				t.Fatal(err)
			}
			p.spans(t.Context(), 1)
			shutdown(t, p, test.limit)
			if got := r.spans.Load(); got != test.came || p.Dropped() != uint64(1-test.came) {
				t.Errorf("%d spans came, %d were dropped", got, p.Dropped())
			}
		})
	}
}

func TestShutdownSendsWhatIsQueued(t *testing.T) {
	c := &collector{}
	p := provider(t, c, million)
	const n = 3*batchLength + 1
	p.spans(t.Context(), n)
	shutdown(t, p, time.Minute)
	if c.count() != n || p.Dropped() != 0 {
		t.Errorf("%d spans came, %d were dropped", c.count(), p.Dropped())
	}
	p.spans(t.Context(), 1) // too late, and harmless
}

// A collector that takes nothing fills the queue; what comes then is dropped at
// once.
func TestCollectorThatHangs(t *testing.T) {
	c := &collector{hold: make(chan struct{})}
	p := provider(t, c, million)
	const more = 1000
	p.spans(t.Context(), queueLength+batchLength+more)
	if p.Dropped() < more {
		t.Errorf("%d spans dropped, want %d or more", p.Dropped(), more)
	}
	shutdown(t, p, 10*time.Millisecond)
	if got := p.Dropped(); got != queueLength+batchLength+more {
		t.Errorf("%d spans dropped, want all", got)
	}
}

func TestFailedBatchesAreCounted(t *testing.T) {
	p := provider(t, &collector{fail: errors.New("no")}, million)
	p.spans(t.Context(), 7)
	shutdown(t, p, time.Minute)
	if got := p.Dropped(); got != 7 {
		t.Errorf("%d spans dropped, want 7", got)
	}
}

func TestRateZeroTracesNothingByItself(t *testing.T) {
	c := &collector{}
	p := provider(t, c, 0)
	p.spans(t.Context(), 100)
	shutdown(t, p, time.Minute)
	if c.count() != 0 {
		t.Errorf("%d spans", c.count())
	}
}
