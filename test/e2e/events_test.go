package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
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

// subscribers asks the daemon how many there are.
func (e *env) subscribers() int {
	e.Helper()
	_, text := e.admin("/metrics")
	m := regexp.MustCompile(`(?m)^cri_node_event_subscribers (\d+)`).FindStringSubmatch(text)
	if m == nil {
		e.Fatal("no such metric")
	}
	n, err := strconv.Atoi(m[1])
	e.must(err)
	return n
}

// awaitSubscribers waits until the daemon knows of all of them: a subscription is
// a message that nobody answers.
func (e *env) awaitSubscribers(want int) {
	e.Helper()
	e.eventually(20*time.Second, func() error {
		if n := e.subscribers(); n != want {
			return fmt.Errorf("%d subscribers, not %d", n, want)
		}
		return nil
	})
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
	const workers = 4
	each := pace.Count(50, 5)
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
	e.awaitSubscribers(2)
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

// collect reads a stream to its end.
func collect[Message any](e *env, stream grpc.ServerStreamingClient[Message], err error) []*Message {
	e.Helper()
	e.must(err)
	var all []*Message
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		e.must(err)
		all = append(all, m)
	}
}

// TestMoreStreamedLists compares those that have no filter with the plain ones.
func TestMoreStreamedLists(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	e.start(p, "c", []string{"sleep", "1000"})
	ctx := t.Context()
	list, err := e.node.RawImages.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	e.must(err)
	var want, got []string
	for _, i := range list.Images {
		want = append(want, i.Id)
	}
	images, err := e.node.RawImages.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	for _, m := range collect(e, images, err) {
		for _, i := range m.Images {
			got = append(got, i.Id)
		}
	}
	sameSet(e, "images", got, want...)
	if len(want) == 0 {
		t.Error("no image is there")
	}

	stats, err := e.node.Raw.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: p.id}})
	got = nil
	for _, m := range collect(e, stats, err) {
		for _, s := range m.PodSandboxStats {
			got = append(got, s.Attributes.Id)
			if s.GetLinux().GetMemory().GetWorkingSetBytes().GetValue() == 0 || len(s.GetLinux().GetContainers()) != 1 {
				t.Errorf("statistics are %v", s)
			}
		}
	}
	sameSet(e, "pods with statistics", got, p.id)

	plain, err := e.node.Raw.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	e.must(err)
	names := func(all []*runtimeapi.PodSandboxMetrics) (list []string) {
		for _, pod := range all {
			if pod.PodSandboxId != p.id {
				continue // of another test, and on its way out
			}
			for _, m := range pod.Metrics {
				list = append(list, m.Name)
			}
			for _, c := range pod.ContainerMetrics {
				for _, m := range c.Metrics {
					list = append(list, c.ContainerId+" "+m.Name)
				}
			}
		}
		return list
	}
	metrics, err := e.node.Raw.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	var streamed []*runtimeapi.PodSandboxMetrics
	for _, m := range collect(e, metrics, err) {
		streamed = append(streamed, m.PodSandboxMetrics...)
	}
	sameSet(e, "metrics", names(streamed), names(plain.PodMetrics)...)
	if len(names(streamed)) == 0 {
		t.Error("the pod has no metrics")
	}
}

// TestEventsForASubscriberThatNeverReads: it is cut off when it is too far behind,
// the others miss nothing, and the daemon does not grow without bound.
func TestEventsForASubscriberThatNeverReads(t *testing.T) {
	e := ownNode(t, node.Options{Number: 49})
	stuck, err := e.node.Raw.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	e.must(err)
	reader := e.watch(0)
	// Each event says all of the pod and its containers.
	large := map[string]string{"example.com/large": strings.Repeat("x", 200<<10)}
	p := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Annotations = large })
	e.awaitSubscribers(2)
	var ids []string
	const most = 150
	for len(ids) < most && e.subscribers() == 2 {
		c := e.create(p, fmt.Sprint("c", len(ids)), []string{"true"}, func(c *runtimeapi.ContainerConfig) { c.Annotations = large })
		e.must(e.node.Runtime.StartContainer(t.Context(), c.id))
		e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
		ids = append(ids, c.id)
	}
	if len(ids) == most {
		t.Fatal("it is still subscribed")
	}
	for _, id := range ids {
		e.told(reader, id, wholeLife...)
	}
	for err == nil {
		_, err = stuck.Recv()
	}
	equal(e, "code", status.Code(err), codes.ResourceExhausted)
	daemon, err := e.node.Daemon()
	e.must(err)
	if pss, err := usage.PSS(daemon); err != nil || pss > 256<<20 {
		t.Errorf("the daemon has %d MiB: %v", pss>>20, err)
	}
	reader.mu.Lock()
	n := len(reader.events)
	reader.mu.Unlock()
	t.Logf("cut off after %d events", n)
}
