package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// spans is a collector of traces.
type spans struct {
	collector.UnimplementedTraceServiceServer
	address string
	server  *grpc.Server

	mu  sync.Mutex
	all []*trace.Span
}

// collectSpans listens for spans until the test ends.
func collectSpans(t *testing.T) *spans {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &spans{address: listener.Addr().String(), server: grpc.NewServer()}
	collector.RegisterTraceServiceServer(s.server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.server.Serve(listener) // it ends by Stop
	}()
	t.Cleanup(func() { s.server.Stop(); <-done })
	return s
}

// Export is what the daemon calls.
func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// find returns the path of a span: its name and those of its ancestors, up to the
// client's span, which nobody has sent.
func (s *spans) find(parent string) (path []string, traceID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		i := slices.IndexFunc(s.all, func(span *trace.Span) bool { return hex.EncodeToString(span.SpanId) == parent })
		if i < 0 {
			return append(path, parent), traceID
		}
		path = append(path, s.all[i].Name)
		parent, traceID = hex.EncodeToString(s.all[i].ParentSpanId), hex.EncodeToString(s.all[i].TraceId)
	}
}

// named returns the paths of the spans with a name.
func (s *spans) named(name string) []string {
	s.mu.Lock()
	var ids []string
	for _, span := range s.all {
		if span.Name == name {
			ids = append(ids, hex.EncodeToString(span.SpanId))
		}
	}
	s.mu.Unlock()
	var paths []string
	for _, id := range ids {
		path, _ := s.find(id)
		paths = append(paths, strings.Join(path, " < "))
	}
	return paths
}

const (
	clientTrace = "0af7651916cd43dd8448eb211c80319c"
	clientSpan  = "b7ad6b7169203331"
)

// traced is a context of a client whose call is part of a trace.
func traced(ctx context.Context, sampled bool) context.Context {
	flags := "00"
	if sampled {
		flags = "01"
	}
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+clientTrace+"-"+clientSpan+"-"+flags)
}

// life runs a pod with a container through the bare client, and removes it.
func (e *env) life(ctx context.Context, name string) {
	e.Helper()
	config := e.node.Pod(name).Config()
	pod, err := e.node.Raw.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	e.must(err)
	c, err := e.node.Raw.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, SandboxConfig: config,
		Config: kubelet.Container{Name: "c", Image: shared.image, Command: []string{"sleep", "1000"}}.Config(config),
	})
	e.must(err)
	_, err = e.node.Raw.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId})
	e.must(err)
	_, err = e.node.Raw.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ContainerId, Cmd: []string{"true"}})
	e.must(err)
	_, err = e.node.Raw.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	e.must(err)
	_, err = e.node.Raw.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	e.must(err)
}

// TestTraceFromTheClientToTheRuntime: one trace has the client's call, its stages,
// and what the OCI runtime and the CNI plugins were run with.
func TestTraceFromTheClientToTheRuntime(t *testing.T) {
	s := collectSpans(t)
	e := ownNode(t, node.Options{Number: 44, GateRuntime: true, GateNetwork: true, Config: fmt.Sprintf("[tracing]\nendpoint = %q\ninsecure = true\n", s.address)})
	e.must(e.node.RecordRuns())
	_, err := e.node.RawImages.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: shared.image}})
	e.must(err)
	_, err = e.node.RawImages.PullImage(traced(t.Context(), true), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: shared.image}})
	e.must(err)
	e.life(traced(t.Context(), true), "traced")
	runs, err := e.node.Runs()
	e.must(err)
	const service = "runtime.v1.RuntimeService/"
	for name, want := range map[string]string{
		"create":  "monitor create < OCI runtime < " + service + "CreateContainer < " + clientSpan,
		"exec":    "monitor exec < command < " + service + "ExecSync < " + clientSpan,
		"cni-ADD": "CNI ADD < network < " + service + "RunPodSandbox < " + clientSpan,
		"cni-DEL": "CNI DEL < network < " + service + "StopPodSandbox < " + clientSpan,
	} {
		if len(runs[name]) != 1 {
			t.Fatalf("runs of %s: %q", name, runs[name])
		}
		parts := strings.Split(runs[name][0], "-")
		if len(parts) != 4 || parts[1] != clientTrace || parts[3] != "01" {
			t.Fatalf("%s was run with %q", name, parts)
		}
		e.eventually(30*time.Second, func() error {
			path, id := s.find(parts[2])
			if got := strings.Join(path, " < "); got != want || id != clientTrace {
				return fmt.Errorf("the span of %s is %s of trace %s, want %s", name, got, id, want)
			}
			return nil
		})
	}
	for name, want := range map[string]string{
		"monitor release": "monitor release < start < " + service + "StartContainer < " + clientSpan,
		"download":        "download < layers < runtime.v1.ImageService/PullImage < " + clientSpan,
	} {
		e.eventually(30*time.Second, func() error {
			if got := s.named(name); len(got) != 1 || got[0] != want {
				return fmt.Errorf("spans are %q, want %s", got, want)
			}
			return nil
		})
	}
}

// TestTracesAreTheClientsDecision: what the client does not trace makes no spans,
// and the runtime is told so; a collector that has gone costs spans and nothing
// else.
func TestTracesAreTheClientsDecision(t *testing.T) {
	s := collectSpans(t)
	e := ownNode(t, node.Options{Number: 45, GateRuntime: true, Config: fmt.Sprintf("[tracing]\nendpoint = %q\ninsecure = true\n", s.address)})
	e.must(e.node.RecordRuns())
	e.life(traced(t.Context(), false), "unsampled")
	runs, err := e.node.Runs()
	e.must(err)
	if got := runs["create"]; len(got) != 1 || !regexp.MustCompile("^00-"+clientTrace+"-[0-9a-f]{16}-00$").MatchString(got[0]) {
		t.Errorf("the runtime was run with %q", got)
	}
	// The only span is that of a call after it.
	_, err = e.node.Raw.Version(traced(t.Context(), true), &runtimeapi.VersionRequest{})
	e.must(err)
	e.eventually(30*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.all) != 1 {
			return fmt.Errorf("%d spans", len(s.all))
		}
		return nil
	})
	s.server.Stop()
	e.life(traced(t.Context(), true), "collector-gone")
	e.eventually(60*time.Second, func() error {
		_, text := e.admin("/metrics")
		m := regexp.MustCompile(`(?m)^cri_node_spans_dropped_total (\S+)`).FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("no such metric")
		}
		if n, err := strconv.ParseFloat(m[1], 64); err != nil || n == 0 {
			return fmt.Errorf("%s spans dropped", m[1])
		}
		return nil
	})
	e.must(e.node.Stop(20 * time.Second))
	e.must(e.node.Restart(t.Context()))
}
