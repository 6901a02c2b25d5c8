package cri

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/progress"
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
	"ListMetricDescriptors": true, "ListPodSandboxMetrics": true, "GetContainerEvents": true,
	"StreamPodSandboxes": true, "StreamContainers": true, "StreamContainerStats": true, "StreamPodSandboxStats": true,
	"StreamPodSandboxMetrics": true, "StreamImages": true,
	// Those for people.
	"List": true, "Inspect": true, "Top": true, "Logs": true, "Events": true, "Wait": true, "ListVolumes": true,
}

// long are the calls whose stages the error of a late one tells; those of
// RunPodSandbox and CreateContainer, which outlive their calls, are told by
// operations, and those of PullImage by the image store.
var long = map[string]bool{
	"StartContainer": true, "StopContainer": true, "RemoveContainer": true, "StopPodSandbox": true, "RemovePodSandbox": true,
	"ExecSync": true, "UpdateContainerResources": true,
}

// What a request or an answer is about.
type (
	ofSandbox   interface{ GetPodSandboxId() string }
	ofContainer interface{ GetContainerId() string }
	ofImage     interface{ GetImage() *runtimeapi.ImageSpec }
)

// subject adds to a logger the ids that a message names.
func (s *Server) subject(log klog.Logger, message any) klog.Logger {
	if m, ok := message.(ofSandbox); ok && m.GetPodSandboxId() != "" {
		log = log.WithValues("sandboxID", m.GetPodSandboxId())
	}
	if m, ok := message.(ofContainer); ok && m.GetContainerId() != "" {
		log = log.WithValues("containerID", m.GetContainerId())
		if c, err := s.config.Containers.Get(m.GetContainerId()); err == nil {
			if _, named := message.(ofSandbox); !named {
				log = log.WithValues("sandboxID", c.Status().Group)
			}
		}
	}
	if m, ok := message.(ofImage); ok && m.GetImage().GetImage() != "" {
		log = log.WithValues("image", m.GetImage().GetImage())
	}
	return log
}

// intercept surrounds every unary call: it puts a logger that carries the ids
// into the context, keeps a panic from taking the daemon down, and turns the
// error into a gRPC status.
func (s *Server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	method := path.Base(info.FullMethod)
	log := s.subject(s.log.WithValues("method", method), request)
	begin := time.Now()
	defer func() { s.config.Metrics.Call(method, codeOf(err), time.Since(begin)) }()
	err = s.surround(&log, method, func() (err error) {
		ctx := ctx
		if long[method] {
			at := progress.NewStages(ctx, s.config.Metrics.Stages(method))
			ctx = progress.Listen(ctx, at.Enter)
			defer func() {
				err = late(err, at)
				at.Finish(err)
				if method != "ExecSync" {
					s.tellChronicle(method, request, begin, at.String(), err)
				}
			}()
		}
		response, err = handler(klog.NewContext(ctx, log), request)
		if err == nil && !reads[method] {
			log = s.created(log, response)
		}
		return err
	})
	return response, err
}

// interceptStream is the same for calls that answer with a stream.
func (s *Server) interceptStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	method := path.Base(info.FullMethod)
	log := s.log.WithValues("method", method)
	err := s.surround(&log, method, func() error {
		return handler(server, streamWithContext{stream, klog.NewContext(stream.Context(), log)})
	})
	s.config.Metrics.Stream(method, codeOf(err))
	return err
}

// surround runs one call, which may change the logger.
func (s *Server) surround(log *klog.Logger, method string, call func() error) error {
	level := logChanges
	if reads[method] {
		level = logReads
	}
	begin := time.Now()
	if err := guard.Call(*log, method, call); err != nil {
		log.V(level).Info("Call failed", "duration", time.Since(begin), "err", err)
		return toStatus(err)
	}
	log.V(level).Info("Call", "duration", time.Since(begin))
	return nil
}

// created adds to a logger the id of what a call has made.
func (s *Server) created(log klog.Logger, response any) klog.Logger {
	switch r := response.(type) {
	case *runtimeapi.RunPodSandboxResponse:
		return log.WithValues("sandboxID", r.GetPodSandboxId())
	case *runtimeapi.CreateContainerResponse:
		return log.WithValues("containerID", r.GetContainerId())
	case *runtimeapi.PullImageResponse:
		return log.WithValues("imageID", r.GetImageRef())
	}
	return log
}
