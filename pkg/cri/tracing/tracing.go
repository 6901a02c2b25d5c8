package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
)

// Config says where spans go.
type Config struct {
	// Endpoint is the host and port of a collector that takes OTLP over gRPC.
	// Empty is no tracing.
	Endpoint string
	// Insecure does without TLS.
	Insecure bool
	// CAFile has the authorities, PEM, one of which must have signed the
	// collector's certificate; empty is those of the machine.
	CAFile string
	// SamplingRatePerMillion is the share of the calls that come without a trace
	// and get one.
	SamplingRatePerMillion int
	// Version of the daemon.
	Version string
}

// million is the unit of SamplingRatePerMillion.
const million = 1_000_000

// Provider makes and sends spans.
type Provider struct {
	sdk   *sdktrace.TracerProvider
	queue *queue
}

// Open returns nil where tracing is off. It contacts nobody.
func Open(ctx context.Context, c Config) (*Provider, error) {
	if c.Endpoint == "" {
		return nil, nil //nolint:nilnil // a Provider that is nil is off
	}
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(c.Endpoint),
		otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithHeaders(map[string]string{}),
		otlptracegrpc.WithCompressor(""),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout,
		}),
	}
	if c.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	} else {
		config, err := clientTLS(c.CAFile)
		if err != nil {
			return nil, err
		}
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(config)))
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("prepare OTLP exporter: %w", err)
	}
	return newProvider(ctx, c, exporter), nil
}

func newProvider(ctx context.Context, c Config, exporter sdktrace.SpanExporter) *Provider {
	q := newQueue(ctx, exporter)
	identity := []attribute.KeyValue{attribute.String("service.name", "cri-node"), attribute.String("service.version", c.Version)}
	if host, err := os.Hostname(); err == nil {
		identity = append(identity, attribute.String("host.name", host))
	}
	return &Provider{queue: q, sdk: sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(q),
		sdktrace.WithResource(resource.NewSchemaless(identity...)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(c.SamplingRatePerMillion)/million))),
	)}
}

func clientTLS(caFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read authorities of the collector: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read authorities of the collector: %s has no certificate", caFile)
	}
	return config, nil
}

// untraced are calls whose spans would end with their subscriber.
var untraced = map[string]bool{"GetContainerEvents": true}

// ServerOptions are what a gRPC server needs to be traced; none for nil.
func (p *Provider) ServerOptions() []grpc.ServerOption {
	if p == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(p.sdk),
		otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return !untraced[path.Base(info.FullMethodName)] }),
	))}
}

// Dropped counts the spans that did not reach the collector.
func (p *Provider) Dropped() uint64 {
	if p == nil {
		return 0
	}
	return p.queue.dropped.Load()
}

// Shutdown sends what waits to be sent, as long as ctx lasts. A collector that
// does not take it is no error.
func (p *Provider) Shutdown(ctx context.Context) error {
	if p == nil {
		return nil
	}
	err := p.sdk.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
