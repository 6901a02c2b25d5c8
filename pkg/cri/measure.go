package cri

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/status"

	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/progress"
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

// late adds to the error of a call whose time was over where that went.
func late(err error, at *progress.Stages) error {
	if err == nil || !at.Entered() || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (%s)", err, at)
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
