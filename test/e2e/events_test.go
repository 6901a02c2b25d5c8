package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// watcher collects the events of a node.
type watcher struct {
	mu     sync.Mutex
	events []*runtimeapi.ContainerEventResponse
	end    chan error
}

// watch subscribes; each event takes the reader a while.
func (e *env) watch(slow time.Duration) *watcher {
	e.Helper()
	ctx, stop := context.WithCancel(e.Context())
	stream, err := e.node.Raw.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		e.Fatal(err)
	}
	w := &watcher{end: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			event, err := stream.Recv()
			if err != nil {
				w.end <- err
				return
			}
			w.mu.Lock()
			w.events = append(w.events, event)
			w.mu.Unlock()
			time.Sleep(slow) // the slowness is what is tested
		}
	}()
	e.Cleanup(func() { stop(); <-done })
	return w
}

// of returns the kinds of the events of one object, in order.
func (w *watcher) of(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kinds []string
	for _, event := range w.events {
		if event.ContainerId == id {
			kinds = append(kinds, event.ContainerEventType.String()[len("CONTAINER_"):][:7])
		}
	}
	return kinds
}

var wholeLife = []string{"CREATED", "STARTED", "STOPPED", "DELETED"}

func (e *env) told(w *watcher, id string, want ...string) {
	e.Helper()
	e.eventually(30*time.Second, func() error {
		if got := w.of(id); !slices.Equal(got, want) {
			return fmt.Errorf("events of %s are %v, want %v", id, got, want)
		}
		return nil
	})
}

// TestEventsOfAPod: each event shows the pod as it was at that moment.
func TestEventsOfAPod(t *testing.T) {
	e := onShared(t)
	w := e.watch(0)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sh", "-c", "exit 3"})
	e.ended(c)
	e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
	e.removePod(p)
	e.told(w, c.id, wholeLife...)
	e.told(w, p.id, wholeLife...)
	w.mu.Lock()
	defer w.mu.Unlock()
	var last int64
	for _, event := range w.events {
		if event.CreatedAt <= last {
			t.Errorf("%v is not later than the one before", event)
		}
		last = event.CreatedAt
		pod := event.PodSandboxStatus
		if pod.GetMetadata().GetUid() == "" || pod.Id == "" {
			t.Errorf("%v has no pod", event)
		}
		if event.ContainerId != c.id {
			continue
		}
		i := slices.IndexFunc(event.ContainersStatuses, func(s *runtimeapi.ContainerStatus) bool { return s.Id == c.id })
		want := map[runtimeapi.ContainerEventType]runtimeapi.ContainerState{
			runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT: runtimeapi.ContainerState_CONTAINER_CREATED,
			runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT: runtimeapi.ContainerState_CONTAINER_RUNNING,
			runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT: runtimeapi.ContainerState_CONTAINER_EXITED,
		}
		state, alive := want[event.ContainerEventType]
		switch {
		case alive != (i >= 0):
			t.Errorf("%v has %v", event.ContainerEventType, event.ContainersStatuses)
		case alive && event.ContainersStatuses[i].State != state:
			t.Errorf("%v shows a container that is %v", event.ContainerEventType, event.ContainersStatuses[i].State)
		case state == runtimeapi.ContainerState_CONTAINER_EXITED && event.ContainersStatuses[i].ExitCode != 3:
			t.Errorf("exit code is %d", event.ContainersStatuses[i].ExitCode)
		}
	}
}

// TestEventsUnderChurn: two readers, one of them slow, lose nothing.
func TestEventsUnderChurn(t *testing.T) {
	e := onShared(t)
	fast, slow := e.watch(0), e.watch(2*time.Millisecond)
	const workers, each = 4, 50
	ids := make([][]string, workers)
	var group sync.WaitGroup
	for i := range workers {
		p := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += fmt.Sprint("-", i) })
		group.Go(func() {
			for j := range each {
				config := kubelet.Container{Name: fmt.Sprint("c", j), Image: shared.image, Command: []string{"true"}}.Config(p.config)
				id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config)
				if err == nil {
					ids[i] = append(ids[i], id)
					err = errors.Join(e.node.Runtime.StartContainer(t.Context(), id), e.node.Runtime.RemoveContainer(t.Context(), id))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for _, id := range slices.Concat(ids...) {
		e.told(fast, id, wholeLife...)
		e.told(slow, id, wholeLife...)
	}
}

// TestEventsForALateSubscriber: what nobody was sent is kept for a while, and
// goes to one subscriber only. What happens while no daemon runs is told of by
// the next one.
func TestEventsForALateSubscriber(t *testing.T) {
	e := ownNode(t, node.Options{Number: 41})
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	first := e.watch(0)
	e.told(first, p.id, "CREATED", "STARTED")
	e.told(first, c.id, "CREATED", "STARTED")
	second := e.watch(0)
	e.must(e.node.Runtime.StopContainer(t.Context(), c.id, 0))
	e.told(first, c.id, "CREATED", "STARTED", "STOPPED")
	e.told(second, c.id, "STOPPED")
	equal(e, "events the second should not have", len(second.of(p.id)), 0)

	short := e.start(p, "short", []string{"sleep", "1"})
	e.must(e.node.Stop(20 * time.Second))
	for _, w := range []*watcher{first, second} {
		if err := <-w.end; status.Code(err) != codes.Unavailable && !errors.Is(err, io.EOF) {
			t.Errorf("the end of the daemon ended a subscription with %v", err)
		}
	}
	time.Sleep(1500 * time.Millisecond) // the container ends while nobody looks
	e.must(e.node.Restart(t.Context()))
	third := e.watch(0)
	e.told(third, short.id, "STOPPED")
	e.must(e.node.Kill())
	e.must(e.node.Restart(t.Context()))
	fourth := e.watch(0)
	e.must(e.node.Runtime.RemoveContainer(t.Context(), short.id))
	e.told(fourth, short.id, "DELETED")
}

// TestPodStatusForEventedPLEG has what kubelet needs to do without a relist.
func TestPodStatusForEventedPLEG(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	before := time.Now().UnixNano()
	r, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, false)
	e.must(err)
	if r.Timestamp < before || len(r.ContainersStatuses) != 1 || r.ContainersStatuses[0].Id != c.id {
		t.Errorf("status is %v", r)
	}
}

// TestStreamedLists have what the plain ones have.
func TestStreamedLists(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	ctx := t.Context()
	pods, err := e.node.Raw.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: p.id}})
	e.must(err)
	pod, err := pods.Recv()
	e.must(err)
	equal(e, "pod", pod.PodSandboxes[0].Id, p.id)
	if _, err := pods.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last there is %v", err)
	}
	containers, err := e.node.Raw.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
	e.must(err)
	container, err := containers.Recv()
	e.must(err)
	equal(e, "container", container.Containers[0].Id, c.id)
	none, err := e.node.Raw.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: "none"}})
	e.must(err)
	if m, err := none.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("an empty list is %v, %v", m, err)
	}
	stats, err := e.node.Raw.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: c.id}})
	e.must(err)
	stat, err := stats.Recv()
	e.must(err)
	equal(e, "container with statistics", stat.ContainerStats[0].Attributes.Id, c.id)
}
