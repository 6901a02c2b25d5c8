package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// nriStep is one step that a plugin was told of.
type nriStep struct {
	event, pod, container string
	// what is of the metadata: namespace/pod/uid and the container's name.
	who, name string
}

// nriPlugin is a plugin that remembers what it is told. The functions may be
// nil; they are set before it connects.
type nriPlugin struct {
	hook   func(ctx context.Context, s nriStep) error
	adjust func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate)
	update func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate
	sync   func(ctx context.Context) []*api.ContainerUpdate

	mu         sync.Mutex
	steps      []nriStep
	pods       []string
	containers map[string]api.ContainerState
	limits     map[string]int64 // memory of each container when it was last told of

	stub   stub.Stub
	synced chan struct{}
	cancel context.CancelFunc
	done   chan error
}

// plugin connects a plugin, which goes when the test ends.
func (e *env) plugin(index, name string, edits ...func(*nriPlugin)) *nriPlugin {
	e.Helper()
	p := e.connecting(index, name, edits...)
	select {
	case <-p.synced:
	case err := <-p.done:
		e.Fatalf("plugin %s: %v", name, err)
	case <-time.After(pace.Limit(10 * time.Second)):
		e.Fatalf("plugin %s was not synchronized", name)
	}
	return p
}

// connecting begins to connect a plugin.
func (e *env) connecting(index, name string, edits ...func(*nriPlugin)) *nriPlugin {
	e.Helper()
	p := &nriPlugin{synced: make(chan struct{}), done: make(chan error, 1), containers: map[string]api.ContainerState{}, limits: map[string]int64{}}
	for _, edit := range edits {
		edit(p)
	}
	s, err := stub.New(p, stub.WithPluginName(name), stub.WithPluginIdx(index), stub.WithSocketPath(e.node.NRISocket()), stub.WithLogger(silent{}))
	e.must(err)
	p.stub = s
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.Context()))
	p.cancel = cancel
	go func() {
		p.done <- s.Run(ctx)
		close(p.done)
	}()
	e.Cleanup(p.leave)
	return p
}

// leave ends the connection.
func (p *nriPlugin) leave() {
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(5 * time.Second): // the stub waits for a hook that hangs
	}
}

func (p *nriPlugin) note(ctx context.Context, event string, pod *api.PodSandbox, c *api.Container) error {
	s := nriStep{event: event, pod: pod.GetId(), container: c.GetId(), name: c.GetName()}
	s.who = pod.GetNamespace() + "/" + pod.GetName() + "/" + pod.GetUid()
	p.mu.Lock()
	p.steps = append(p.steps, s)
	if c != nil {
		p.limits[c.GetId()] = c.GetLinux().GetResources().GetMemory().GetLimit().GetValue()
	}
	p.mu.Unlock()
	if p.hook != nil {
		return p.hook(ctx, s)
	}
	return nil
}

// told returns the names of the events of an object, in order.
func (p *nriPlugin) told(id string) []string {
	var events []string
	for _, s := range p.of(id) {
		events = append(events, s.event)
	}
	return events
}

// of returns the steps of a container, or those of a pod itself.
func (p *nriPlugin) of(id string) []nriStep {
	p.mu.Lock()
	defer p.mu.Unlock()
	var steps []nriStep
	for _, s := range p.steps {
		if s.container == id || s.container == "" && s.pod == id {
			steps = append(steps, s)
		}
	}
	return steps
}

// all returns all steps so far.
func (p *nriPlugin) all() []nriStep {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

// wants waits until a plugin was told of just these steps of an object, in this
// order.
func (e *env) wants(p *nriPlugin, id string, events ...string) {
	e.Helper()
	e.eventually(10*time.Second, func() error {
		if got := p.told(id); !slices.Equal(got, events) {
			return fmt.Errorf("told of %s: %s, want %s", id, strings.Join(got, " "), strings.Join(events, " "))
		}
		return nil
	})
}

// Synchronize implements stub.SynchronizeInterface, as the others do theirs.
func (p *nriPlugin) Synchronize(ctx context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	for _, pod := range pods {
		p.pods = append(p.pods, pod.GetId())
	}
	for _, c := range containers {
		p.containers[c.GetId()] = c.GetState()
		p.limits[c.GetId()] = c.GetLinux().GetResources().GetMemory().GetLimit().GetValue()
	}
	p.mu.Unlock()
	var updates []*api.ContainerUpdate
	if p.sync != nil {
		updates = p.sync(ctx)
	}
	close(p.synced)
	return updates, nil
}

func (p *nriPlugin) RunPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.note(ctx, "run", pod, nil)
}

func (p *nriPlugin) UpdatePodSandbox(ctx context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.note(ctx, "update", pod, nil)
}

func (p *nriPlugin) PostUpdatePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.note(ctx, "updated", pod, nil)
}

func (p *nriPlugin) StopPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.note(ctx, "stop", pod, nil)
}

func (p *nriPlugin) RemovePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.note(ctx, "remove", pod, nil)
}

func (p *nriPlugin) CreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.note(ctx, "create", pod, c); err != nil || p.adjust == nil {
		return nil, nil, err
	}
	a, u := p.adjust(c)
	return a, u, nil
}

func (p *nriPlugin) PostCreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note(ctx, "created", pod, c)
}

func (p *nriPlugin) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note(ctx, "start", pod, c)
}

func (p *nriPlugin) PostStartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note(ctx, "started", pod, c)
}

func (p *nriPlugin) UpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.note(ctx, "update", pod, c); err != nil || p.update == nil {
		return nil, err
	}
	return p.update(c, r), nil
}

func (p *nriPlugin) PostUpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note(ctx, "updated", pod, c)
}

func (p *nriPlugin) StopContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.note(ctx, "stop", pod, c)
}

func (p *nriPlugin) RemoveContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note(ctx, "remove", pod, c)
}

// silent drops what the stub logs.
type silent struct{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Infof(context.Context, string, ...any)  {}
func (silent) Warnf(context.Context, string, ...any)  {}
func (silent) Errorf(context.Context, string, ...any) {}

// stopsAt makes a plugin wait in one kind of step, once. reached is closed when
// it is there, and release lets it go on.
func stopsAt(event string) (edit func(*nriPlugin), reached chan string, release func()) {
	reached, hold := make(chan string, 1), make(chan struct{})
	var once sync.Once
	return func(p *nriPlugin) {
		p.hook = func(ctx context.Context, s nriStep) error {
			if s.event != event || s.container == "" && event == "create" {
				return nil
			}
			once.Do(func() {
				id := s.container
				if id == "" {
					id = s.pod
				}
				reached <- id
				select {
				case <-hold:
				case <-ctx.Done():
				}
			})
			return nil
		}
	}, reached, sync.OnceFunc(func() { close(hold) })
}

// await1 waits for a value.
func await1[V any](e *env, what string, c <-chan V) V {
	e.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(pace.Limit(20 * time.Second)):
		e.Fatalf("%s did not come", what)
		panic("not reached")
	}
}

// nriNode is a node of its own with plugins that have little time.
func nriNode(t *testing.T, number int) *env {
	t.Helper()
	return ownNode(t, node.Options{Number: number, Config: fmt.Sprintf("[nri]\nrequest_timeout = %q\n", pace.Limit(500*time.Millisecond))})
}
