package progress

import (
	"context"
	"encoding/hex"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of all spans of ours.
const scope = "github.com/cri-node/cri-node"

// Start begins a span below the one in ctx; pairs are the keys and values of its
// attributes. The caller must call end, with the error of what the span stands for.
// Where ctx has no span, or one that is not recorded, nothing is begun.
func Start(ctx context.Context, name string, pairs ...string) (below context.Context, end func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nothing
	}
	attributes := make([]attribute.KeyValue, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		attributes = append(attributes, attribute.String(pairs[i], pairs[i+1]))
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(attributes...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

func nothing(error) {}

// Below puts the span of another context into ctx: for work that outlives the
// call it is done for, or is done for several.
func Below(ctx, of context.Context) context.Context {
	if span := trace.SpanFromContext(of); span.SpanContext().IsValid() {
		return trace.ContextWithSpan(ctx, span)
	}
	return ctx
}

// Environment tells a child process of the span in ctx, in the form that
// OpenTelemetry has for that: TRACEPARENT and TRACESTATE. It is empty where there
// is none.
func Environment(ctx context.Context) []string {
	c := trace.SpanContextFromContext(ctx)
	if !c.IsValid() {
		return nil
	}
	traceID, spanID := c.TraceID(), c.SpanID()
	flags := byte(c.TraceFlags() & trace.FlagsSampled)
	env := []string{"TRACEPARENT=00-" + hex.EncodeToString(traceID[:]) + "-" + hex.EncodeToString(spanID[:]) + "-" + hex.EncodeToString([]byte{flags})}
	if state := c.TraceState().String(); state != "" {
		env = append(env, "TRACESTATE="+state)
	}
	return env
}
