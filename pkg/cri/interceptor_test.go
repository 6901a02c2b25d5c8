package cri

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/progress"
)

// A call that ran out of time says in which stage.
func TestLateCallNamesItsStage(t *testing.T) {
	s := &Server{config: Config{Metrics: telemetry.New("test")}}
	info := &grpc.UnaryServerInfo{FullMethod: "/runtime.v1.RuntimeService/StopPodSandbox"}
	_, err := s.intercept(t.Context(), &runtimeapi.StopPodSandboxRequest{}, info, func(ctx context.Context, _ any) (any, error) {
		ctx = progress.Enter(ctx, "containers")
		progress.Enter(ctx, "network")
		return nil, context.DeadlineExceeded
	})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "containers 0s, in network for ") {
		t.Errorf("the error is %v", err)
	}
	_, err = s.intercept(t.Context(), &runtimeapi.StopPodSandboxRequest{}, info, func(ctx context.Context, _ any) (any, error) {
		progress.Enter(ctx, "network")
		return nil, errors.New("broken")
	})
	if err == nil || strings.Contains(err.Error(), "in network") {
		t.Errorf("an error that has nothing to do with time is %v", err)
	}
}
