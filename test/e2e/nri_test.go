package e2e

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

// TestNRILifecycle tells a plugin of each step once, in order, with names.
func TestNRILifecycle(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		plugin := e.plugin("10", "lifecycle")
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		e.must(e.node.Runtime.UpdateContainerResources(e.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512}}))
		e.must(e.node.Runtime.StopContainer(e.Context(), c.id, 0))
		e.must(e.node.Runtime.StopContainer(e.Context(), c.id, 0))
		e.must(e.node.Runtime.RemoveContainer(e.Context(), c.id))
		failed := e.runs(p, "failed", []string{"sh", "-c", "exit 1"})
		equal(e, "exit code", failed.status.ExitCode, 1)
		// Its end is told without anybody asking for it.
		e.wants(plugin, failed.status.Id, "create", "created", "start", "started", "stop")
		never := e.create(p, "never", []string{"true"})
		e.must(e.node.Runtime.StopPodSandbox(e.Context(), p.id))
		e.must(e.node.Runtime.StopPodSandbox(e.Context(), p.id))
		e.must(e.node.Runtime.RemovePodSandbox(e.Context(), p.id))
		e.must(e.node.Runtime.RemovePodSandbox(e.Context(), p.id))
		e.wants(plugin, p.id, "run", "stop", "remove")
		e.wants(plugin, c.id, "create", "created", "start", "started", "update", "updated", "stop", "remove")
		e.wants(plugin, failed.status.Id, "create", "created", "start", "started", "stop", "remove")
		e.wants(plugin, never.id, "create", "created", "stop", "remove")
		m := p.config.Metadata
		for _, s := range plugin.of(c.id) {
			equal(e, "name in "+s.event, s.name, "c")
			equal(e, "pod in "+s.event, s.who, m.Namespace+"/"+m.Name+"/"+m.Uid)
		}
		for _, s := range plugin.of(p.id) {
			equal(e, "pod in "+s.event, s.who, m.Namespace+"/"+m.Name+"/"+m.Uid)
		}
	})
}

// TestNRIRunPodHidden: while plugins are told of a pod nobody else sees it, and
// nothing is created in it.
func TestNRIRunPodHidden(t *testing.T) {
	e := onShared(t)
	edit, reached, release := stopsAt("run")
	defer release()
	plugin := e.plugin("10", "hidden", edit)
	config := e.node.Pod(podName(t)).Config()
	type run struct {
		id  string
		err error
	}
	ran := make(chan run, 1)
	go func() {
		id, err := e.node.Runtime.RunPodSandbox(t.Context(), config, "")
		ran <- run{id, err}
	}()
	id := await1(e, "the step", reached)
	pods, err := e.node.Runtime.ListPodSandbox(t.Context(), nil)
	e.must(err)
	if slices.ContainsFunc(pods, func(p *runtimeapi.PodSandbox) bool { return p.Id == id }) {
		t.Error("the pod is listed")
	}
	if s, err := e.node.Runtime.PodSandboxStatus(t.Context(), id, false); err == nil {
		t.Errorf("the pod has a status: %v", s)
	}
	inside := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"true"}}.Config(config)
	if _, err := e.node.Runtime.CreateContainer(t.Context(), id, inside, config); err == nil {
		t.Error("created a container in a pod that is not ready")
	}
	release()
	r := await1(e, "the pod", ran)
	e.must(r.err)
	equal(e, "id", r.id, id)
	p := &pod{id, config}
	defer e.removePod(p)
	s, err := e.node.Runtime.PodSandboxStatus(t.Context(), id, false)
	e.must(err)
	equal(e, "state", s.Status.State, runtimeapi.PodSandboxState_SANDBOX_READY)
	c := e.create(p, "c", []string{"true"})
	e.wants(plugin, c.id, "create", "created")
}

// TestNRIRefused: what a plugin refuses is undone, told to be, and may be tried
// again with the same metadata.
func TestNRIRefused(t *testing.T) {
	e := onShared(t)
	var refuse atomic.Value
	refuse.Store("run")
	plugin := e.plugin("10", "refuses", func(p *nriPlugin) {
		p.hook = func(_ context.Context, s nriStep) error {
			if refuse.CompareAndSwap(s.event, "") {
				return errors.New("not this one")
			}
			return nil
		}
	})
	config := e.node.Pod(podName(t)).Config()
	if id, err := e.node.Runtime.RunPodSandbox(t.Context(), config, ""); err == nil {
		t.Errorf("pod %s runs, which was refused", id)
	} else {
		contains(e, "error", err.Error(), "not this one", "RunPodSandbox")
	}
	refused := plugin.all()[0].pod
	e.wants(plugin, refused, "run", "stop", "remove")
	e.check()
	p := e.runPodConfig("", config)

	refuse.Store("create")
	inside := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"sleep", "1000"}}.Config(config)
	if id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, inside, config); err == nil {
		t.Errorf("container %s was created, which was refused", id)
	}
	steps := plugin.all()
	refused = steps[len(steps)-1].container
	e.wants(plugin, refused, "create", "remove")
	list, err := e.node.Runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	e.must(err)
	equal(e, "containers", len(list), 0)
	c := e.create(p, "c", []string{"sleep", "1000"})

	refuse.Store("start")
	if err := e.node.Runtime.StartContainer(t.Context(), c.id); err == nil {
		t.Error("a container was started, which was refused")
	}
	equal(e, "state", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_CREATED)
	e.must(e.node.Runtime.StartContainer(t.Context(), c.id))

	refuse.Store("update")
	if err := e.node.Runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 99}}); err == nil {
		t.Error("a container was updated, which was refused")
	}
	// What ends, ends.
	for _, event := range []string{"stop", "remove"} {
		refuse.Store(event)
		e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
	}
	e.wants(plugin, c.id, "create", "created", "start", "start", "started", "update", "stop", "remove")
}

// TestNRIStopPod: a pod's stop is told once its containers have ended, while
// the pod can still be asked about, and nothing is created in it afterwards.
func TestNRIStopPod(t *testing.T) {
	e := onShared(t)
	edit, reached, release := stopsAt("stop")
	defer release()
	var plugin *nriPlugin
	only := func(p *nriPlugin) {
		edit(p)
		wait := p.hook
		p.hook = func(ctx context.Context, s nriStep) error {
			if s.container != "" {
				return nil
			}
			return wait(ctx, s)
		}
	}
	plugin = e.plugin("10", "stops", only)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	stopped := make(chan error, 1)
	go func() { stopped <- e.node.Runtime.StopPodSandbox(t.Context(), p.id) }()
	await1(e, "the step", reached)
	equal(e, "state", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_EXITED)
	if _, err := e.node.Runtime.PodSandboxStatus(t.Context(), p.id, false); err != nil {
		t.Errorf("status of the pod: %v", err)
	}
	e.wants(plugin, c.id, "create", "created", "start", "started", "stop")
	inside := kubelet.Container{Name: "late", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	create := func() {
		if _, err := e.node.Runtime.CreateContainer(t.Context(), p.id, inside, p.config); err == nil {
			t.Error("created a container in a stopped pod")
		}
	}
	create()
	release()
	e.must(await1(e, "the stop", stopped))
	create()
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), p.id))
	e.wants(plugin, p.id, "run", "stop")
	for _, s := range plugin.all() {
		if s.name == "late" {
			t.Errorf("told of %v", s)
		}
	}
}

// TestNRICreateHidden: nobody sees a container while plugins are told of it.
func TestNRICreateHidden(t *testing.T) {
	e := onShared(t)
	edit, reached, release := stopsAt("create")
	defer release()
	e.plugin("10", "hidden", edit)
	p := e.runPod("")
	config := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	made := make(chan error, 1)
	go func() {
		_, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config)
		made <- err
	}()
	id := await1(e, "the step", reached)
	list, err := e.node.Runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	e.must(err)
	equal(e, "containers", len(list), 0)
	if s, err := e.node.Runtime.ContainerStatus(t.Context(), id, false); err == nil {
		t.Errorf("the container has a status: %v", s)
	}
	release()
	e.must(await1(e, "the container", made))
	equal(e, "state", e.status(id).State, runtimeapi.ContainerState_CONTAINER_CREATED)
}

// TestNRISynchronize: a plugin that connects late is told what there is, and
// what is made meanwhile reaches it exactly once.
func TestNRISynchronize(t *testing.T) {
	e := onShared(t)
	e.plugin("00", "first")
	p := e.runPod("")
	running := e.start(p, "running", []string{"sleep", "1000"})
	created := e.create(p, "created", []string{"true"})
	exited := e.runs(p, "exited", []string{"true"}).status.Id

	reached, hold := make(chan struct{}), make(chan struct{})
	late := e.connecting("10", "late", func(p *nriPlugin) {
		p.sync = func(context.Context) []*api.ContainerUpdate {
			close(reached)
			<-hold
			return nil
		}
	})
	await1(e, "Synchronize", reached)
	const during = 3
	ids := make(chan string, during)
	errs := make(chan error, during)
	for _, name := range []string{"a", "b", "c"} {
		config := kubelet.Container{Name: "during-" + name, Image: shared.image, Command: []string{"sleep", "1000"}}.Config(p.config)
		go func() {
			id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config)
			if err == nil {
				err = e.node.Runtime.StartContainer(t.Context(), id)
			}
			ids <- id
			errs <- err
		}()
	}
	select { // longer than any other request may take
	case id := <-ids:
		ids <- id
	case <-time.After(2500 * time.Millisecond):
	}
	close(hold)
	for range during {
		e.must(await1(e, "a container", errs))
	}
	await1(e, "the end of Synchronize", late.synced)
	if !slices.Contains(late.pods, p.id) {
		t.Error("the pod is not in Synchronize")
	}
	for id, want := range map[string]api.ContainerState{
		running.id: api.ContainerState_CONTAINER_RUNNING, created.id: api.ContainerState_CONTAINER_CREATED, exited: api.ContainerState_CONTAINER_STOPPED,
	} {
		equal(e, "state of "+id, late.containers[id], want)
	}
	for range during {
		id := <-ids
		if _, twice := late.containers[id]; twice {
			e.wants(late, id, "created", "start", "started")
		} else {
			e.wants(late, id, "create", "created", "start", "started")
		}
	}
	after := e.start(p, "after", []string{"sleep", "1000"})
	e.wants(late, after.id, "create", "created", "start", "started")
}
