package cri

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// Levels of the log: changes are said at 2, reads only when somebody looks for
// them, because kubelet asks for every list each second.
const (
	logChanges = 2
	logStages  = 4
	logReads   = 5
)

// reads are the calls that change nothing.
var reads = map[string]bool{
	"Version": true, "Status": true, "RuntimeConfig": true,
	"ListPodSandbox": true, "PodSandboxStatus": true, "ListContainers": true, "ContainerStatus": true,
	"ContainerStats": true, "ListContainerStats": true, "PodSandboxStats": true, "ListPodSandboxStats": true,
	"ListImages": true, "ImageStatus": true, "ImageFsInfo": true, "ExecSync": true,
	"ListMetricDescriptors": true, "ListPodSandboxMetrics": true,
}

// idRequest is a request about one sandbox, container or image.
type (
	sandboxRequest   interface{ GetPodSandboxId() string }
	containerRequest interface{ GetContainerId() string }
)

// intercept surrounds every unary call: it puts a logger that carries the ids
// into the context, keeps a panic from taking the daemon down, and turns the
// error into a gRPC status.
func (s *Server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	method := path.Base(info.FullMethod)
	log := s.log.WithValues("method", method)
	if r, ok := request.(sandboxRequest); ok && r.GetPodSandboxId() != "" {
		log = log.WithValues("sandboxID", r.GetPodSandboxId())
	}
	if r, ok := request.(containerRequest); ok && r.GetContainerId() != "" {
		log = log.WithValues("containerID", r.GetContainerId())
	}
	level := logChanges
	if reads[method] {
		level = logReads
	}
	begin := time.Now()
	defer func() {
		if p := recover(); p != nil {
			log.Error(nil, "A call panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = toStatus(fmt.Errorf("%s panicked: %v: %w", method, p, errdefs.ErrInternal))
			return
		}
		if err != nil {
			log.V(level).Info("Call failed", "duration", time.Since(begin), "err", err)
			err = toStatus(err)
			return
		}
		log.V(level).Info("Call", "duration", time.Since(begin))
	}()
	return handler(klog.NewContext(ctx, log), request)
}
