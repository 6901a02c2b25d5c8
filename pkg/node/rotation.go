package node

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/node/logs"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// How long it is from one look at the logs to the next: while one grows fast, or
// has a bound of its own, a short time. That is all the daemon does for logs, which the monitor writes.
const (
	rotateSlow = 10 * time.Second
	rotateFast = time.Second
)

// maxLogFiles is how many files one log may have.
const maxLogFiles = 1000

// logBounds are what a container asks for, or what the daemon has for all.
func (s *Server) logBounds(r *record) logs.Bounds {
	b := s.config.Logs
	switch {
	case r.LogMaxSize != 0:
		b = logs.Bounds{Size: r.LogMaxSize, Files: int(max(r.LogMaxFiles, 1))}
	case r.LogMaxFiles != 0:
		b.Files = int(r.LogMaxFiles)
	}
	return b
}

// rotateLogs bounds the logs of people's containers until ctx ends. kubelet does
// it for its own.
func (s *Server) rotateLogs(ctx context.Context) {
	timer := time.NewTimer(rotateSlow)
	defer timer.Stop()
	sizes := map[string]int64{}
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		next := rotateSlow
		seen := map[string]int64{}
		for _, e := range s.table.list() {
			_ = guard.Call(klog.FromContext(ctx), "rotation of the log of container "+e.id, func() error { // which is in the log
				size, soon := s.rotateLog(ctx, e, sizes[e.id])
				seen[e.id] = size
				if soon {
					next = rotateFast
				}
				return nil
			})
		}
		sizes = seen
		timer.Reset(next)
	}
}

// rotateLog looks at the log of one container, which was as large as before. It
// reports its size, and whether to look again soon.
func (s *Server) rotateLog(ctx context.Context, e *entry, before int64) (size int64, soon bool) {
	c, err := s.config.Containers.Get(e.id)
	if err != nil || c.Status().State != runtime.Running {
		return 0, false
	}
	r := e.record()
	b := s.logBounds(&r)
	if b.Size < 1 {
		return 0, false
	}
	size, there := logs.Size(s.logPath(e.id))
	if there && size <= b.Size {
		return size, size-before > b.Size/10 || r.LogMaxSize > 0
	}
	_, err = logs.Rotate(s.logPath(e.id), b, time.Now(), func() error {
		_, err := s.config.CRI.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: e.id})
		return err
	})
	if err != nil && c.Status().State == runtime.Running && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "The log of a container of people's cannot be rotated", "containerID", e.id)
	}
	if s.table.get(e.id) == nil {
		// It was removed meanwhile, when the log may have had another name.
		if err := s.removeLogs(e.id); err != nil {
			klog.FromContext(ctx).Error(err, "The log of a container that is gone stays", "containerID", e.id)
		}
	}
	return 0, true
}

// planLog takes over the bounds of the log.
func (p *plan) planLog() error {
	bound := p.request.GetLog()
	switch {
	case bound.GetMaxSize() < -1:
		return invalid("log.max_size: %d is less than -1, which is no bound", bound.GetMaxSize())
	case bound.GetMaxFiles() > maxLogFiles:
		return invalid("log.max_files: %d is more than %d", bound.GetMaxFiles(), maxLogFiles)
	}
	p.record.LogMaxSize, p.record.LogMaxFiles = bound.GetMaxSize(), bound.GetMaxFiles()
	return nil
}
