// Package tracing sends the spans of CRI calls to an OpenTelemetry collector.
//
// Spans are begun by the gRPC server, which goes on with the trace of its client
// (kubelet's, as traceparent of the request), and below that by pkg/progress.
// Whether a call is traced is the client's decision; of those that come without
// one a configured share is.
//
// A span that has ended waits in a queue of fixed length, from which one goroutine
// sends batches:
//
//	ended --queue full--> dropped
//	  '--> queued --> batch --collector takes it--> exported
//	                    '-----error, or time over--> dropped
//
// Ending a span never waits. What is dropped is counted. The queue has no locks
// but its channel. Nothing is registered with OpenTelemetry's globals, and nothing
// of the daemon's environment (OTEL_*) changes where spans go.
//
// A nil *Provider is tracing that is off, which costs nothing: the gRPC server is
// then made without the handler that would begin spans.
package tracing
