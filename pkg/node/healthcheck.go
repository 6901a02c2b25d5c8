package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// watch is the health check of one run of a container.
type watch struct {
	checker *health.Checker
	began   time.Time
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

// probed is what is known of a run by its probes. It is kept in the state
// directory: a boot, which ends the run, may forget it.
type probed struct {
	Began time.Time    `json:"began"`
	State health.State `json:"state"`
}

func (s *Server) healthPath(id string) string {
	return filepath.Join(s.config.State, "node", "health", id+".json")
}

// loadHealth finds out what an earlier daemon knew of a container.
func (s *Server) loadHealth(ctx context.Context, e *entry) {
	if e.record().Health == nil {
		return
	}
	p, sameBoot, err := linux.LoadRecord[probed](s.healthPath(e.id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.complain(ctx, err, "The results of a health check are lost", e.id)
	}
	if err != nil || !sameBoot {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.probed = p
}

// healthOf is what is known of the run that began at a time.
func (e *entry) healthOf(began time.Time) health.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.probed.Began.Equal(began) {
		return e.probed.State
	}
	return health.State{Status: e.rec.HealthStatus}
}

// startHealth begins to probe a container that runs, if it has a health check.
// It goes on from what is known of this run.
func (s *Server) startHealth(e *entry, c *runtime.Container) {
	r := e.record()
	if r.Health == nil || r.Health.Command(nil) == nil {
		return
	}
	s.stopHealth(e)
	ctx, cancel := context.WithCancel(s.life)
	began := c.Status().StartedAt
	w := &watch{began: began, cancel: cancel, done: make(chan struct{})}
	w.checker = health.New(*r.Health, began, e.healthOf(began), func(now health.State, changed bool) {
		err := linux.SaveRecord(s.healthPath(e.id), probed{began, now}, linux.SurviveProcess)
		if changed {
			err = errors.Join(err, s.update(e, func(r *record) { r.HealthStatus = now.Status }))
		}
		if e.isGone() {
			return
		}
		s.complain(ctx, err, "The health of a container is not saved", e.id)
		if changed {
			s.tell(target{c, e}, "health_status: "+string(now.Status), nil)
		}
	})
	e.mu.Lock()
	e.health = w
	e.mu.Unlock()
	s.background.Go(func() {
		defer close(w.done)
		w.checker.Run(ctx, func(ctx context.Context) (code int, out string, err error) {
			err = guard.Call(klog.FromContext(ctx), "the probe of container "+e.id, func() (err error) {
				code, out, err = probe(ctx, c, r.Health.Command(nil))
				return err
			})
			return code, out, err
		})
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
	if w == nil {
		return
	}
	w.cancel()
	<-w.done
	e.mu.Lock()
	defer e.mu.Unlock()
	e.probed = probed{w.began, w.checker.State()}
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
