package node

import (
	"maps"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Report tells those who read Events what has happened to an object: kind is
// container, image, pod or volume, action what docker calls it.
func (s *Server) Report(kind, action, id, name string, attributes map[string]string) {
	s.events.Add(func(at time.Time) *nodev1.Event {
		return &nodev1.Event{Time: at.UnixNano(), Type: kind, Action: action, Id: id, Name: name, Attributes: attributes}
	})
}

// Events sends what happens from now on, or since a time, as far as it is
// remembered.
func (s *containers) Events(r *nodev1.EventsRequest, stream grpc.ServerStreamingServer[nodev1.Event]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	return s.events.Read(ctx, moment(r.GetSince()), moment(r.GetUntil()), stream.Send)
}

// moment is a time of the API, where 0 is none.
func moment(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// tell reports what was done to a container by a request.
func (s *Server) tell(t target, action string, attributes map[string]string) {
	st := t.c.Status()
	all := shown(st.Labels)
	maps.Copy(all, attributes)
	all["image"] = s.imageName(t)
	s.Report("container", action, st.ID, s.title(t), all)
}

// containerEvent reports what became of a container.
func (s *Server) containerEvent(e *entry, change runtime.Change) {
	st := change.Status
	report := func(action string, attributes map[string]string) {
		all := shown(st.Labels)
		maps.Copy(all, attributes)
		name := st.Name
		if e != nil {
			name, all["image"] = e.name(), e.record().Image
		} else if sb, err := s.config.Sandboxes.Get(st.Group); err == nil {
			name = sb.Status().Params.Name + "/" + st.Name
		}
		s.Report("container", action, st.ID, name, all)
	}
	switch change.Kind {
	case runtime.ChangeCreated:
		if st.Restarts == 0 { // else it is made ready for another start
			report("create", nil)
		}
	case runtime.ChangeStarted:
		report("start", nil)
	case runtime.ChangeExited:
		if st.Reason == runtime.ReasonOOMKilled {
			report("oom", nil)
		}
		report("die", map[string]string{
			"exitCode": strconv.Itoa(st.ExitCode), "execDuration": strconv.Itoa(int(st.FinishedAt.Sub(st.StartedAt).Seconds())),
		})
	case runtime.ChangeRemoved:
		report("destroy", nil)
	case runtime.ChangePaused:
		report("pause", nil)
	case runtime.ChangeUnpaused:
		report("unpause", nil)
	}
}
