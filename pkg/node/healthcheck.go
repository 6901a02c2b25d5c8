package node

import (
	"context"
	"encoding/json"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// watch is the health check of one run of a container.
type watch struct {
	checker *health.Checker
	cancel  context.CancelFunc
	done    chan struct{}
}

// imageHealth is what images have that the OCI's type has no fields for.
type imageHealth struct {
	Healthcheck health.Config
	Shell       []string
}

func (s *Server) imageHealth(img *image.Image) imageHealth {
	var document struct {
		Config imageHealth `json:"config"`
	}
	doc, err := s.config.Images.ConfigJSON(img.ID)
	if err != nil || json.Unmarshal(doc, &document) != nil {
		return imageHealth{} // an image without one
	}
	return document.Config
}

// startHealth begins to probe a container that runs, if it has a health check.
// It goes on from the last status of this run.
func (s *Server) startHealth(e *entry, c *runtime.Container) {
	r := e.record()
	if r.Health == nil || r.Health.Command(nil) == nil {
		return
	}
	s.stopHealth(e)
	ctx, cancel := context.WithCancel(s.life)
	w := &watch{cancel: cancel, done: make(chan struct{})}
	w.checker = health.New(*r.Health, c.Status().StartedAt, r.HealthStatus, func(status health.Status) {
		err := s.update(e, func(r *record) { r.HealthStatus = status })
		if errdefs.IsNotFound(err) {
			return // it is being removed
		}
		s.complain(ctx, err, "The health of a container is not saved", e.id)
		s.tell(target{c, e}, "health_status: "+string(status), nil)
	})
	e.mu.Lock()
	e.health = w
	e.mu.Unlock()
	s.background.Go(func() {
		defer close(w.done)
		w.checker.Run(ctx, func(ctx context.Context) (int, string, error) { return probe(ctx, c, r.Health.Command(nil)) })
	})
}

// stopHealth ends the probing, and waits until it has.
func (s *Server) stopHealth(e *entry) {
	if e == nil {
		return
	}
	e.mu.Lock()
	w := e.health
	e.health = nil
	e.mu.Unlock()
	if w != nil {
		w.cancel()
		<-w.done
	}
}

// maxProbeOutput of a probe is kept.
const maxProbeOutput = 4096

// probe runs a command in a container.
func probe(ctx context.Context, c *runtime.Container, command []string) (int, string, error) {
	init, err := c.InitProcess()
	if err != nil {
		return 0, "", err
	}
	process, err := spec.Process(init, command, spec.WithoutTerminal)
	if err != nil {
		return 0, "", err
	}
	out := &bounded{}
	code, err := c.Exec(ctx, process, runtime.Streams{Stdout: out, Stderr: out})
	return code, out.String(), err
}
