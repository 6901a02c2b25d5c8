package tracing

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/progress"
)

// versions answers one call, in three stages.
type versions struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (versions) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	at := progress.NewStages(ctx, nil)
	ctx = progress.Listen(ctx, at.Enter)
	for _, name := range []string{"first", "second", "third"} {
		_, end := progress.Start(progress.Enter(ctx, name), "run", "container.id", "id")
		end(nil)
	}
	at.Finish(nil)
	return &runtimeapi.VersionResponse{RuntimeName: "cri-node"}, nil
}

// BenchmarkCall is a call over a unix socket: with tracing off, with tracing on
// but a caller who does not trace it, and traced.
func BenchmarkCall(b *testing.B) {
	for _, test := range []struct {
		name     string
		provider *Provider
		parent   string
	}{
		{"off", nil, ""},
		{"unsampled", newProvider(b.Context(), Config{}, &collector{}), "00-00000000000000000000000000000001-0000000000000001-00"},
		{"sampled", newProvider(b.Context(), Config{}, &collector{}), "00-00000000000000000000000000000001-0000000000000001-01"},
	} {
		b.Run(test.name, func(b *testing.B) {
			listener, err := (&net.ListenConfig{}).Listen(b.Context(), "unix", b.TempDir()+"/s")
			if err != nil {
				b.Fatal(err)
			}
			server := grpc.NewServer(test.provider.ServerOptions()...)
			runtimeapi.RegisterRuntimeServiceServer(server, versions{})
			go func() { _ = server.Serve(listener) }()
			defer server.Stop()
			conn, err := grpc.NewClient("unix://"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			client := runtimeapi.NewRuntimeServiceClient(conn)
			ctx := b.Context()
			if test.parent != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", test.parent)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		_ = test.provider.Shutdown(b.Context())
	}
}
