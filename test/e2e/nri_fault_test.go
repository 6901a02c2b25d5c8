package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// TestNRIHangs: a plugin that does not answer is let go, and pods go on, in
// every kind of step.
func TestNRIHangs(t *testing.T) {
	e := nriNode(t, 41)
	other := e.plugin("90", "fine")
	for _, event := range []string{"run", "create", "created", "start", "started", "update", "stop", "remove"} {
		t.Run(event, func(t *testing.T) {
			e := e.in(t)
			edit, reached, release := stopsAt(event)
			defer release()
			plugin := e.plugin("10", "hangs", func(p *nriPlugin) {
				edit(p)
				once := p.hook
				// It hangs on when its own request has long been given up.
				p.hook = func(_ context.Context, s nriStep) error { return once(context.WithoutCancel(t.Context()), s) } //nolint:contextcheck // see above
			})
			began := time.Now()
			p := e.runPod("")
			c := e.start(p, "c", []string{"sleep", "1000"})
			e.must(e.node.Runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 400}}))
			e.must(e.node.Runtime.StopContainer(t.Context(), c.id, 0))
			e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
			e.must(e.node.Runtime.StopPodSandbox(t.Context(), p.id))
			e.must(e.node.Runtime.RemovePodSandbox(t.Context(), p.id))
			if took := time.Since(began); took > pace.Limit(10*time.Second) {
				t.Errorf("took %v", took)
			}
			await1(e, "the step", reached)
			release()
			await1(e, "the end of the plugin", plugin.done)
			e.wants(other, c.id, "create", "created", "start", "started", "update", "updated", "stop", "remove")
			e.wants(other, p.id, "run", "stop", "remove")
		})
	}
}

// TestNRISilentPeer: who connects and says nothing holds up no pod, and other
// plugins for the time of a registration at most.
func TestNRISilentPeer(t *testing.T) {
	e := nriNode(t, 42)
	conn, err := net.Dial("unix", e.node.NRISocket())
	e.must(err)
	defer conn.Close()
	began := time.Now()
	e.runs(e.runPod(""), "c", []string{"true"})
	if took := time.Since(began); took > pace.Limit(4*time.Second) {
		t.Errorf("a pod took %v", took)
	}
	e.plugin("10", "patient")
}

// TestNRIDies: a plugin that goes away in a step does not keep it from
// happening, and comes back to be synchronized.
func TestNRIDies(t *testing.T) {
	e := onShared(t)
	var first *nriPlugin
	died := make(chan struct{})
	var once sync.Once
	ready := make(chan struct{})
	first = e.plugin("10", "dies", func(p *nriPlugin) {
		p.hook = func(_ context.Context, s nriStep) error {
			if s.event == "start" {
				once.Do(func() {
					<-ready
					go func() {
						first.cancel()
						close(died)
					}()
					<-died
				})
			}
			return nil
		}
	})
	close(ready)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	equal(e, "state", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	again := e.plugin("10", "dies")
	equal(e, "state in Synchronize", again.containers[c.id], api.ContainerState_CONTAINER_RUNNING)
	e.must(e.node.Runtime.StopContainer(t.Context(), c.id, 0))
	e.wants(again, c.id, "stop")
}

// TestNRIDaemonKilled: plugins come back to a new daemon, which knows what the
// old one has told.
func TestNRIDaemonKilled(t *testing.T) {
	e := nriNode(t, 43)
	before := e.plugin("10", "before")
	p := e.runPod("")
	running := e.start(p, "running", []string{"sleep", "1000"})
	dying := e.start(p, "dying", []string{"sleep", "1000"})
	created := e.create(p, "created", []string{"sleep", "1000"})
	stopped := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-stopped" })
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), stopped.id))
	process := e.process(dying)
	e.must(e.node.Kill())
	await1(e, "the end of the connection", before.done)
	e.must(unix.Kill(process.PID, unix.SIGKILL))
	e.must(e.node.Restart(t.Context()))
	after := e.plugin("10", "after")
	for id, want := range map[string]api.ContainerState{
		running.id: api.ContainerState_CONTAINER_RUNNING, created.id: api.ContainerState_CONTAINER_CREATED, dying.id: api.ContainerState_CONTAINER_STOPPED,
	} {
		equal(e, "state of "+id, after.containers[id], want)
	}
	for _, id := range []string{p.id, stopped.id} {
		if !slices.Contains(after.pods, id) {
			t.Errorf("pod %s is not in Synchronize", id)
		}
	}
	e.must(e.node.Runtime.StartContainer(t.Context(), created.id))
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), stopped.id))
	e.must(e.node.Runtime.RemovePodSandbox(t.Context(), stopped.id))
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), p.id))
	e.must(e.node.Runtime.RemovePodSandbox(t.Context(), p.id))
	e.wants(after, running.id, "stop", "remove")
	e.wants(after, dying.id, "remove")
	e.wants(after, created.id, "start", "started", "stop", "remove")
	e.wants(after, stopped.id, "remove")
	e.wants(after, p.id, "stop", "remove")
}

// TestNRISocketTaken: where plugins cannot connect, the daemon says so and
// works, and takes no address away.
func TestNRISocketTaken(t *testing.T) {
	e := ownNode(t, node.Options{Number: 44})
	e.must(e.node.Kill())
	e.must(os.Remove(e.node.NRISocket()))
	l, err := net.Listen("unix", e.node.NRISocket())
	e.must(err)
	defer l.Close()
	e.must(e.node.Restart(t.Context()))
	contains(e, "log", e.node.LogFrom(0), "another program serves on "+e.node.NRISocket())
	e.runs(e.runPod(""), "c", []string{"true"})

	e.must(e.node.Kill())
	e.must(e.node.Configure("[nri]\nsocket = \"/dev/null/x.sock\"\n"))
	offset := e.node.LogSize()
	e.must(e.node.Restart(t.Context()))
	if log := e.node.LogFrom(offset); strings.Count(log, "NRI plugins") != 1 || !strings.Contains(log, "/dev/null/x.sock") {
		t.Errorf("log is %q", log)
	}
	e.runs(e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-2" }), "c", []string{"true"})
}

// TestNRIStress: workers make and remove pods while two plugins are connected
// and a third comes and goes. All of them end with the same story of each pod.
func TestNRIStress(t *testing.T) {
	const workers = 4
	rounds := pace.Count(8, 2)
	e := nriNode(t, 45)
	plugins := []*nriPlugin{e.plugin("10", "one"), e.plugin("20", "two")}
	ctx, stop := context.WithCancel(t.Context())
	var coming sync.WaitGroup
	var third []*nriPlugin
	coming.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			p := e.connecting("30", fmt.Sprintf("third-%d", i)) //nolint:contextcheck // a plugin lives until it leaves
			select {
			case <-p.synced:
			case <-time.After(pace.Limit(10 * time.Second)):
				t.Error("a plugin was not synchronized")
				return
			}
			third = append(third, p)
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
			p.leave()
		}
	})
	var mu sync.Mutex
	var pods []string
	err := parallel(workers*rounds, workers, func(i int) error {
		id, err := e.churn(i)
		mu.Lock()
		defer mu.Unlock()
		pods = append(pods, id)
		return err
	})
	stop()
	coming.Wait()
	e.must(err)
	for _, p := range plugins {
		for _, id := range pods {
			e.wants(p, id, "run", "stop", "remove")
		}
		stories(e, p)
	}
	equal(e, "steps told", len(plugins[0].all()), len(plugins[1].all()))
	for _, p := range third {
		for id := range p.containers {
			if got := p.told(id); slices.Contains(got, "create") {
				t.Errorf("told of %s in Synchronize and then %v", id, got)
			}
		}
	}
	t.Logf("%d pods, %d plugins came and went, %d steps", len(pods), len(third), len(plugins[0].all()))
}

// churn runs a pod with a container that exits and one that is stopped by
// overlapping calls, and removes it by some.
func (e *env) churn(i int) (string, error) {
	ctx, r := e.Context(), e.node.Runtime
	config := e.node.Pod(fmt.Sprintf("churn-%d", i)).Config()
	id, err := r.RunPodSandbox(ctx, config, "")
	if err != nil {
		return "", err
	}
	var ids []string
	for name, command := range map[string][]string{"short": {"true"}, "long": {"sleep", "1000"}} {
		c, err := r.CreateContainer(ctx, id, kubelet.Container{Name: name, Image: shared.image, Command: command}.Config(config), config)
		if err != nil {
			return id, err
		}
		if err := r.StartContainer(ctx, c); err != nil {
			return id, err
		}
		ids = append(ids, c)
	}
	calls := []func() error{
		func() error { return r.StopPodSandbox(ctx, id) },
		func() error { return r.RemovePodSandbox(ctx, id) },
		func() error { return r.RemoveContainer(ctx, ids[0]) },
		func() error { return r.StopContainer(ctx, ids[1], 0) },
		func() error { // may come too late
			_, _ = r.CreateContainer(ctx, id, kubelet.Container{Name: "late", Image: shared.image, Command: []string{"sleep", "1000"}}.Config(config), config)
			return nil
		},
	}
	errs := make([]error, len(calls))
	var group sync.WaitGroup
	for i, call := range calls {
		group.Go(func() { errs[i] = call() })
	}
	group.Wait()
	return id, errors.Join(append(errs, r.RemovePodSandbox(ctx, id))...)
}

// stories checks that what a plugin was told of each container is one life.
func stories(e *env, p *nriPlugin) {
	e.Helper()
	lives := []string{
		"create remove", "create created remove", "create created stop remove", "create stop remove",
		"create created start started stop remove", "create created start stop remove",
	}
	seen := map[string]bool{}
	podOf := map[string]string{}
	gone := map[string]bool{}
	for _, s := range p.all() {
		if s.container == "" {
			gone[s.pod] = gone[s.pod] || s.event == "remove"
			continue
		}
		seen[s.container] = true
		podOf[s.container] = s.pod
		if gone[s.pod] {
			e.Errorf("told of %s of container %s after the removal of its pod", s.event, s.container)
		}
	}
	for id := range seen {
		if got := strings.Join(p.told(id), " "); !slices.Contains(lives, got) {
			e.Errorf("life of %s is %q", id, got)
		}
	}
}
