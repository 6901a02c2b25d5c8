package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/node/logs"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// logInterval is how often a log that has a bound is looked at: it may outgrow it
// by what a container writes in that time.
const logInterval = time.Second

// planLog takes over the bounds of the log.
func (p *plan) planLog() error {
	bound := p.request.GetLog()
	switch {
	case bound.GetMaxSize() < 0:
		return invalid("log.max_size: %d is less than 0", bound.GetMaxSize())
	case bound.GetMaxFiles() > 0 && bound.GetMaxSize() == 0:
		return invalid("log.max_files: of a log without a largest size there is one file: --log-opt max-size=10m bounds it")
	}
	p.record.LogMaxSize, p.record.LogMaxFiles = bound.GetMaxSize(), bound.GetMaxFiles()
	return nil
}

// boundLog keeps the log of a container within its bounds while its present run
// lasts.
func (s *Server) boundLog(e *entry, c *runtime.Container) {
	r := e.record()
	if r.LogMaxSize == 0 {
		return
	}
	began := c.Status().StartedAt
	s.later(e.id, func(ctx context.Context) error {
		tick := time.NewTicker(logInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if st := c.Status(); st.State != runtime.Running || !st.StartedAt.Equal(began) {
				return nil
			}
			info, err := os.Stat(s.logPath(e.id))
			if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < r.LogMaxSize {
				continue
			}
			if err == nil {
				err = s.rotateLog(ctx, e, c)
			}
			s.complain(ctx, err, "The log of a container grows beyond its bound", e.id)
		}
	})
}

// rotateLog begins a new file, while nobody else changes the container.
func (s *Server) rotateLog(ctx context.Context, e *entry, c *runtime.Container) error {
	unlock, err := e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if c.Status().State != runtime.Running {
		return nil
	}
	keep := int(max(e.record().LogMaxFiles, 1)) - 1
	return logs.Rotate(s.logPath(e.id), keep, time.Now(), func() error { return c.ReopenLog(ctx) })
}
