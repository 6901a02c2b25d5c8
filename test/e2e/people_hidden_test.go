package e2e

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// seenByCRI are the ids in every list of CRI, by the name of the call.
func (p *people) seenByCRI(id string, labels map[string]string) map[string]map[string]bool {
	p.Helper()
	seen := map[string]map[string]bool{}
	note := func(call string, err error, ids ...string) {
		p.must(err)
		if seen[call] == nil {
			seen[call] = map[string]bool{}
		}
		for _, id := range ids {
			seen[call][id] = true
		}
	}
	raw, ctx := p.node.Raw, p.Context()
	pods, err := raw.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: id, LabelSelector: labels}})
	note("ListPodSandbox", err)
	for _, x := range pods.GetItems() {
		note("ListPodSandbox", nil, x.Id)
	}
	containers, err := raw.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id, LabelSelector: labels}})
	note("ListContainers", err)
	for _, x := range containers.GetContainers() {
		note("ListContainers", nil, x.PodSandboxId)
	}
	stats, err := raw.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: id, LabelSelector: labels}})
	note("ListPodSandboxStats", err)
	for _, x := range stats.GetStats() {
		note("ListPodSandboxStats", nil, x.GetAttributes().GetId())
	}
	usages, err := raw.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: id, LabelSelector: labels}})
	note("ListContainerStats", err)
	for _, x := range usages.GetStats() {
		r, err := raw.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: x.GetAttributes().GetId()}})
		note("ListContainerStats", err, r.GetContainers()[0].PodSandboxId)
	}
	streamed, err := raw.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: id, LabelSelector: labels}})
	p.must(err)
	for _, x := range all(p, streamed) {
		for _, pod := range x.GetPodSandboxes() {
			note("StreamPodSandboxes", nil, pod.Id)
		}
	}
	streamedContainers, err := raw.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id, LabelSelector: labels}})
	p.must(err)
	for _, x := range all(p, streamedContainers) {
		for _, c := range x.GetContainers() {
			note("StreamContainers", nil, c.PodSandboxId)
		}
	}
	return seen
}

// all reads a stream to its end.
func all[T any](p *people, stream grpc.ServerStreamingClient[T]) (list []*T) {
	p.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			return list
		}
		list = append(list, m)
	}
}

// TestPeopleAreHidden: kubelet ends every pod it does not know, so that it must
// not see those of people; and what kubelet has nobody can hide by a label.
func TestPeopleAreHidden(t *testing.T) {
	p := onPeople(t)
	w := p.watch(0)
	p.awaitSubscribers(1)
	label := map[string]string{"io.cri-node.owner": "people"}
	hostile := p.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Labels["io.cri-node.owner"] = "people" })
	claims := p.start(hostile, "claims", []string{"sleep", "1000"}, func(c *runtimeapi.ContainerConfig) { c.Labels["io.cri-node.owner"] = "people" })
	id := p.run(forever, named("hidden"))
	pod := p.get(id).PodId
	for _, tc := range []struct {
		name            string
		id              string
		labels          map[string]string
		people, hostile bool
	}{
		{"all", "", nil, false, true},
		{"by label", "", label, true, true},
		{"by id", pod, nil, true, false},
	} {
		for call, ids := range p.seenByCRI(tc.id, tc.labels) {
			if ids[pod] != tc.people || ids[hostile.id] != tc.hostile {
				t.Errorf("%s %s: people's %v, kubelet's %v", call, tc.name, ids[pod], ids[hostile.id])
			}
		}
	}
	metrics, err := p.node.Raw.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	p.must(err)
	found := false
	for _, m := range metrics.PodMetrics {
		if m.PodSandboxId == pod {
			t.Error("metrics show people's pod")
		}
		found = found || m.PodSandboxId == hostile.id
	}
	if !found {
		t.Error("metrics lack kubelet's pod")
	}
	// By its id it can be asked for, and an image in use is not garbage.
	equal(p.env, "state", p.status(id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	if !p.image(shared.image).GetPinned() {
		t.Error("the image is not pinned")
	}
	_, err = p.Stop(t.Context(), &nodev1.StopRequest{Container: id})
	p.must(err)
	p.begin(id)
	p.rm(id)
	if p.image(shared.image).GetPinned() {
		t.Error("the image stays pinned")
	}
	p.must(p.node.Runtime.StopContainer(t.Context(), claims.id, 0))
	p.told(w, claims.id, "CREATED", "STARTED", "STOPPED")
	for _, hidden := range []string{id, pod} {
		if told := w.of(hidden); len(told) > 0 {
			t.Errorf("CRI was told %v", told)
		}
	}
}

// TestPeopleMetadata: a request with the metadata of somebody else's pod does not
// get that pod.
func TestPeopleMetadata(t *testing.T) {
	p := onPeople(t)
	id := p.run(forever, named("metadata"))
	status, err := p.node.Raw.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.get(id).PodId})
	p.must(err)
	config := p.node.Pod("thief").Config()
	config.Metadata = status.Status.Metadata
	stolen, err := p.node.Runtime.RunPodSandbox(context.WithoutCancel(t.Context()), config, "")
	if err == nil {
		t.Errorf("it is %s", stolen)
	}
	equal(p.env, "state", p.get(id).State, "running")
}
