package progress

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// traced returns a context with a span, and what records those below it.
func traced(t *testing.T) (context.Context, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, span := provider.Tracer("test").Start(t.Context(), "call")
	t.Cleanup(func() { span.End() })
	return ctx, recorder
}

// parents maps the name of each span that has ended to that of its parent.
func parents(r *tracetest.SpanRecorder) map[string]string {
	names := map[trace.SpanID]string{}
	for _, s := range r.Started() {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	found := map[string]string{}
	for _, s := range r.Ended() {
		found[s.Name()] = names[s.Parent().SpanID()]
	}
	return found
}

func TestWithoutATraceNothingHappens(t *testing.T) {
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		below, end := Start(ctx, "name", "key", "value")
		end(nil)
		if below != ctx || Environment(ctx) != nil || Enter(ctx, "step") != ctx || Below(ctx, ctx) != ctx {
			t.Fatal("something happened")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSpans(t *testing.T) {
	ctx, recorder := traced(t)
	outer, endOuter := Start(ctx, "outer", "container.id", "abc")
	_, endInner := Start(outer, "inner")
	endInner(errors.New("broken"))
	endOuter(nil)
	if got, want := parents(recorder), (map[string]string{"inner": "outer", "outer": "call"}); !reflect.DeepEqual(got, want) {
		t.Errorf("spans are %v, want %v", got, want)
	}
	inner, end := recorder.Ended()[0], recorder.Ended()[1]
	if s := inner.Status(); s.Code != codes.Error || s.Description != "broken" {
		t.Errorf("status is %v", s)
	}
	if a := end.Attributes(); len(a) != 1 || a[0].Key != "container.id" || a[0].Value.AsString() != "abc" {
		t.Errorf("attributes are %v", a)
	}
}

func TestEnvironment(t *testing.T) {
	state, err := trace.ParseTraceState("vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	config := trace.SpanContextConfig{TraceID: trace.TraceID{0: 0xab, 15: 1}, SpanID: trace.SpanID{7: 2}, TraceState: state}
	for _, test := range []struct {
		flags trace.TraceFlags
		want  string
	}{
		{trace.FlagsSampled, "TRACEPARENT=00-ab000000000000000000000000000001-0000000000000002-01"},
		{0, "TRACEPARENT=00-ab000000000000000000000000000001-0000000000000002-00"},
	} {
		config.TraceFlags = test.flags
		got := Environment(trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(config)))
		if !slices.Equal(got, []string{test.want, "TRACESTATE=vendor=1"}) {
			t.Errorf("environment is %q", got)
		}
	}
}

// Each stage's span is below the call's, and what is done in it below the stage.
func TestStages(t *testing.T) {
	ctx, recorder := traced(t)
	var told []string
	s := NewStages(ctx, func(stage string, _ time.Duration) { told = append(told, stage) })
	if s.Entered() || s.String() != "" {
		t.Errorf("before the first stage: %q", s)
	}
	work := Listen(ctx, s.Enter)
	work = Enter(work, "first")
	_, end := Start(work, "of the first")
	end(nil)
	work = Enter(work, "second")
	_, end = Start(work, "of the second")
	end(nil)
	layers := NewStages(work, nil)
	s.Follow("layer 1", layers)
	layers.Enter(work, "download")
	layers.Detail(func() string { return "1 of 2 bytes" })
	for _, want := range []string{"first 0s, in second for 0s", "; layer 1 in download for 0s, 1 of 2 bytes"} {
		if got := s.String(); !strings.Contains(strings.ReplaceAll(got, "1ms", "0s"), want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	layers.Finish(nil)
	if got := s.String(); strings.Contains(got, "layer") {
		t.Errorf("%q has a part that has ended", got)
	}
	if got := Enter(Listen(work, nil), "of something else"); trace.SpanFromContext(got) != trace.SpanFromContext(work) {
		t.Error("a step was entered where nobody listens")
	}
	s.Finish(errors.New("broken"))
	s.Finish(nil)
	if !slices.Equal(told, []string{"first", "second"}) {
		t.Errorf("told of %v", told)
	}
	want := map[string]string{
		"first": "call", "of the first": "first", "second": "call", "of the second": "second", "download": "second",
	}
	if got := parents(recorder); !reflect.DeepEqual(got, want) {
		t.Errorf("spans are %v, want %v", got, want)
	}
}
