package node

import (
	"context"

	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/node/logs"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Logs sends what a container has written. It follows through restarts, until the
// container comes to rest.
func (s *containers) Logs(r *nodev1.LogsRequest, stream grpc.ServerStreamingServer[nodev1.LogsResponse]) error {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return err
	}
	path := t.c.Status().LogPath
	if path == "" {
		return refused("container %q has no log", s.title(t))
	}
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	o := logs.Options{Path: path, Tail: -1, Since: moment(r.GetSince()), Until: moment(r.GetUntil()), Follow: r.GetFollow()}
	if r.Tail != nil {
		o.Tail = max(r.GetTail(), -1)
	}
	if o.Follow {
		done := make(chan struct{})
		o.Done = done
		watching := make(chan struct{})
		ctx, stop := context.WithCancel(ctx)
		go func() {
			defer close(watching)
			if s.waitRest(ctx, t) == nil {
				close(done)
			}
		}()
		defer func() { stop(); <-watching }()
	}
	return logs.Read(ctx, o, func(lines []logs.Line) error {
		m := &nodev1.LogsResponse{Lines: make([]*nodev1.LogLine, 0, len(lines))}
		for _, l := range lines {
			m.Lines = append(m.Lines, &nodev1.LogLine{Time: l.Time.UnixNano(), Stderr: l.Stderr, Partial: l.Partial, Text: l.Text})
		}
		return stream.Send(m)
	})
}

// waitRest waits until a container has exited and nothing starts it again by
// itself.
func (s *Server) waitRest(ctx context.Context, t target) error {
	if t.e == nil {
		_, err := s.waitEnd(ctx, t, 0)
		return err
	}
	for {
		t.e.mu.Lock()
		gone, again, changed := t.e.gone, t.e.comesBackLocked(), t.e.changed
		t.e.mu.Unlock()
		st := t.c.Status()
		if gone || st.State == runtime.Exited && !again && t.e.isSettled(st) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
