package cri

import (
	"context"
	"path"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/progress"
)

// BenchmarkIntercept is what surrounds a call, with tracing off: of one that has no
// stages, of one that could have some, and of one with three, in each of which
// something would make a span and ask for the environment of a child.
func BenchmarkIntercept(b *testing.B) {
	s := &Server{config: Config{Metrics: telemetry.New("test")}, log: klog.NewKlogr()}
	none := func(context.Context, any) (any, error) { return nil, nil } //nolint:nilnil // nobody looks
	stages := func(ctx context.Context, _ any) (any, error) {
		for _, name := range []string{"first", "second", "third"} {
			below, end := progress.Start(progress.Enter(ctx, name), "run", "container.id", "id")
			_ = progress.Environment(below)
			end(nil)
		}
		return nil, nil
	}
	for _, test := range []struct {
		name, method string
		handler      grpc.UnaryHandler
	}{
		{"without stages", "/runtime.v1.RuntimeService/Version", none},
		{"stages unused", "/runtime.v1.RuntimeService/StopPodSandbox", none},
		{"three stages", "/runtime.v1.RuntimeService/StopPodSandbox", stages},
	} {
		b.Run(test.name, func(b *testing.B) {
			info := &grpc.UnaryServerInfo{FullMethod: test.method}
			request := &runtimeapi.VersionRequest{}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.intercept(b.Context(), request, info, test.handler); err != nil {
					b.Fatal(path.Base(test.method), err)
				}
			}
		})
	}
}
