package cri

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/events"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// eventLog makes CRI's events out of changes and keeps them for subscribers.
type eventLog struct {
	log *events.Log[*runtimeapi.ContainerEventResponse]

	// mu puts events in the order of their times.
	mu   sync.Mutex
	last int64
	// unready are the sandboxes that were told to have stopped when the init of
	// their pid namespace went, so that they are not told so twice.
	unready sync.Map
}

func newEventLog() *eventLog {
	size := func(e *runtimeapi.ContainerEventResponse) int { return proto.Size(e) }
	return &eventLog{log: events.NewLog(events.DefaultBounds, size)}
}

// add gives an event its time, which no other has, and publishes it.
func (l *eventLog) add(kind runtimeapi.ContainerEventType, id string, pod *runtimeapi.PodSandboxStatus, containers []*runtimeapi.ContainerStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last+1, time.Now().UnixNano())
	l.log.Add(&runtimeapi.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: l.last,
		PodSandboxStatus: pod, ContainersStatuses: containers,
	})
}

// GetContainerEvents sends what happens to containers and pods from now on,
// and what of the last minutes nobody has been sent.
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return s.events.log.Subscribe(stream.Context(), stream.Send)
}

// EventsDropped counts the events that a subscriber should have had and did
// not get.
func (s *Server) EventsDropped() uint64 { return s.events.log.Dropped() }

// containerEvent tells subscribers of a change. The change's own snapshot is
// part of it, however long ago that was, and what the rest of the pod is now.
func (s *Server) containerEvent(change runtime.Change) {
	st := change.Status
	if st.Owner != "" {
		return
	}
	if st.Infra {
		s.initEvent(change)
		return
	}
	var kind runtimeapi.ContainerEventType
	switch change.Kind {
	case runtime.ChangeCreated:
		kind = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	case runtime.ChangeStarted:
		kind = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	case runtime.ChangeExited:
		kind = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	case runtime.ChangeRemoved:
		kind = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	default:
		return // CRI has no word for it
	}
	sb, err := s.sandboxes().Get(st.Group)
	if err != nil {
		return // nobody was told of the pod either
	}
	pod := sb.Status()
	containers := s.containerStatuses(pod.ID, st.ID)
	if change.Kind != runtime.ChangeRemoved {
		containers = append(containers, s.containerStatus(st))
	}
	s.events.add(kind, st.ID, s.sandboxStatus(&pod), containers)
}

// initEvent tells of a pod that ends because the init of its pid namespace
// has; nothing else about an init is to be known.
func (s *Server) initEvent(change runtime.Change) {
	if change.Kind != runtime.ChangeExited {
		return
	}
	sb, err := s.sandboxes().Get(change.Status.Group)
	if err != nil || sb.Status().State != sandbox.Ready {
		return
	}
	st := sb.Status()
	s.events.unready.Store(st.ID, true)
	s.events.add(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, st.ID, s.sandboxStatus(&st), s.containerStatuses(st.ID, ""))
}

// sandboxEvent tells subscribers of a change of a pod: a container event with
// the sandbox's id. A pod is created and started at once.
func (s *Server) sandboxEvent(change sandbox.Change) {
	st := change.Status
	if st.Params.Owner != "" {
		return
	}
	pod := s.sandboxStatus(&st)
	switch change.Kind {
	case sandbox.ChangeReady:
		s.events.add(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, st.ID, pod, nil)
		s.events.add(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, st.ID, pod, nil)
	case sandbox.ChangeNotReady:
		if _, told := s.events.unready.LoadAndDelete(st.ID); told {
			return
		}
		s.events.add(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, st.ID, pod, s.containerStatuses(st.ID, ""))
	case sandbox.ChangeRemoved:
		s.events.unready.Delete(st.ID)
		s.events.add(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, st.ID, pod, nil)
	}
}

// containerStatuses describes the containers of a pod, but one.
func (s *Server) containerStatuses(sandboxID, except string) []*runtimeapi.ContainerStatus {
	var list []*runtimeapi.ContainerStatus
	for _, c := range s.config.Containers.Group(sandboxID) {
		if st := c.Status(); !st.Infra && st.State != runtime.Creating && st.ID != except {
			list = append(list, s.containerStatus(st))
		}
	}
	return list
}
