package cri

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/status"

	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// codeOf names the gRPC code of an error of toStatus, as a label; "" is none.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return status.Code(err).String()
}

type stagesKey struct{}

// withStages lets a call that can take long say how far it is.
func (s *Server) withStages(ctx context.Context, method string) (context.Context, *stages) {
	at := s.newStages(method)
	return context.WithValue(ctx, stagesKey{}, at), at
}

func (s *Server) newStages(method string) *stages {
	return &stages{method: method, metrics: s.config.Metrics}
}

// stagesOf returns the stages of the call that ctx belongs to.
func stagesOf(ctx context.Context) *stages {
	if at, ok := ctx.Value(stagesKey{}).(*stages); ok {
		return at
	}
	return &stages{}
}

// late adds to the error of a call whose time was over where that went.
func (s *stages) late(err error) error {
	if err == nil || !s.entered() || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (%s)", err, s)
}

// Source tells the metrics what is counted in the layers below.
func (s *Server) Source() telemetry.Source {
	return telemetry.Source{
		Containers: func() map[string]int {
			count := map[string]int{runtime.Created.String(): 0, runtime.Running.String(): 0, runtime.Exited.String(): 0}
			for _, c := range s.config.Containers.List() {
				if st := c.Status(); !st.Infra {
					count[st.State.String()]++
				}
			}
			return count
		},
		Sandboxes: func() map[string]int {
			count := map[string]int{"ready": 0, "notready": 0}
			for _, sb := range s.sandboxes().List() {
				if sb.Status().State == sandbox.Ready {
					count["ready"]++
				} else {
					count["notready"]++
				}
			}
			return count
		},
		EventsDropped:    func() float64 { return float64(s.events.log.Dropped()) },
		EventSubscribers: func() float64 { return float64(s.events.log.Subscribers()) },
	}
}
