package nri

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// fakeNode has every pod and container that it is asked about.
type fakeNode struct {
	asked   atomic.Int64
	panics  atomic.Bool
	updated sync.Map
}

func (n *fakeNode) Pod(id string) (*Pod, error) {
	n.asked.Add(1)
	if n.panics.Load() {
		panic("fake")
	}
	return &Pod{Status: sandbox.Status{ID: id}}, nil
}

func (n *fakeNode) Container(id string) (*Container, error) {
	n.asked.Add(1)
	return fakeContainer(id), nil
}

func fakeContainer(id string) *Container {
	pod, _, _ := strings.Cut(id, "/")
	return &Container{Status: &runtime.Status{Params: runtime.Params{ID: id, Group: pod, Name: "c"}}, Spec: testSpec()}
}

func (n *fakeNode) Update(_ context.Context, id string, r *api.LinuxResources) error {
	if id == "missing" {
		return errdefs.ErrNotFound
	}
	n.updated.Store(id, r.GetMemory().GetLimit().GetValue())
	return nil
}

func (*fakeNode) Evict(context.Context, string, string) error { return nil }

// fakePlugin remembers the lives of containers.
type fakePlugin struct {
	mu     sync.Mutex
	lives  map[string][]string
	synced chan struct{}
}

func (p *fakePlugin) add(id, event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lives[id] = append(p.lives[id], event)
}

func (p *fakePlugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, pod := range pods {
		p.add(pod.GetId(), "sync")
	}
	for _, c := range containers {
		p.add(c.GetId(), "sync-"+c.GetState().String())
	}
	close(p.synced)
	return nil, nil
}

func (p *fakePlugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.add(pod.GetId(), "run")
	return nil
}

func (p *fakePlugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.add(pod.GetId(), "stop")
	return nil
}

func (p *fakePlugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.add(pod.GetId(), "remove")
	return nil
}

func (p *fakePlugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.add(c.GetId(), "create")
	return nil, nil, nil
}

func (p *fakePlugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.add(c.GetId(), "start")
	return nil
}

func (p *fakePlugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.add(c.GetId(), "stop")
	return nil, nil
}

func (p *fakePlugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.add(c.GetId(), "remove")
	return nil
}

func newManager(t *testing.T, node Node, known Known) *Manager {
	t.Helper()
	dir := t.TempDir()
	m, err := New(t.Context(), Config{
		Socket: filepath.Join(dir, "nri.sock"), PluginDir: filepath.Join(dir, "plugins"), ConfigDir: dir,
		RegistrationTimeout: 5 * time.Second, RequestTimeout: 5 * time.Second, Name: "test", Version: "1",
	}, node)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(known); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// run connects a plugin until leave is called, or the daemon lets it go.
func run(t *testing.T, m *Manager, plugin any, index string) (leave func(), ended <-chan struct{}) {
	t.Helper()
	s, err := stub.New(plugin, stub.WithPluginName("fake"), stub.WithPluginIdx(index), stub.WithSocketPath(m.config.Socket))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	leave = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(leave)
	return leave, done
}

// connect is run of a fakePlugin, until it knows what there is.
func connect(t *testing.T, m *Manager, index string) (p *fakePlugin, leave func()) {
	t.Helper()
	p = &fakePlugin{lives: map[string][]string{}, synced: make(chan struct{})}
	leave, _ = run(t, m, p, index)
	select {
	case <-p.synced:
	case <-time.After(20 * time.Second):
		t.Fatal("not synchronized")
	}
	return p, leave
}

// live takes a pod with a container through its life; what may come from two
// sides does.
func live(ctx context.Context, m *Manager, pod string) error {
	c := pod + "/c"
	ok := func() error { return nil }
	if err := m.RunPodSandbox(ctx, pod, ok); err != nil {
		return err
	}
	if _, err := m.CreateContainer(ctx, fakeContainer(c), Host{}); err != nil {
		return err
	}
	m.PostCreateContainer(ctx, c)
	if err := m.StartContainer(ctx, c, ok, func() bool { return false }); err != nil {
		return err
	}
	m.Exited(c)
	if err := errors.Join(m.StopContainer(ctx, c), m.StopPodSandbox(ctx, pod), m.StopPodSandbox(ctx, pod)); err != nil {
		return err
	}
	if _, err := m.CreateContainer(ctx, fakeContainer(pod+"/late"), Host{}); !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("create in a stopped pod: %w", err)
	}
	m.RemovingContainer(c)
	m.RemoveContainer(ctx, c)
	m.RemoveContainer(ctx, c)
	m.RemovingPodSandbox(pod)
	m.RemovePodSandbox(ctx, pod)
	return nil
}

// TestOnce runs many pods while plugins come and go: the one that stays is told
// of each step once, and those that come miss none.
func TestOnce(t *testing.T) {
	const workers, rounds = 4, 30
	m := newManager(t, &fakeNode{}, Known{})
	stays, _ := connect(t, m, "10")
	ended := make(chan struct{})
	var group, coming sync.WaitGroup
	var come []*fakePlugin
	coming.Go(func() {
		for {
			p, leave := connect(t, m, "20")
			come = append(come, p)
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
				leave()
			}
		}
	})
	for w := range workers {
		group.Go(func() {
			for i := range rounds {
				if err := live(t.Context(), m, fmt.Sprintf("pod-%d-%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	close(ended)
	coming.Wait()
	m.Close()
	if len(stays.lives) != 2*workers*rounds {
		t.Errorf("told of %d objects", len(stays.lives))
	}
	for id, life := range stays.lives {
		want := []string{"run", "stop", "remove"}
		if strings.Contains(id, "/") {
			want = []string{"create", "start", "stop", "remove"}
		}
		if !slices.Equal(life, want) {
			t.Errorf("life of %s: %v", id, life)
		}
	}
	for _, p := range come {
		for id, life := range p.lives {
			checkLife(t, id, life)
		}
	}
}

// checkLife wants a part of a life without a gap: it begins with what there was
// or at the beginning, and ends where the plugin left.
func checkLife(t *testing.T, id string, life []string) {
	t.Helper()
	whole := []string{"run", "stop", "remove"}
	from := map[string]int{"sync": -1}
	if strings.Contains(id, "/") {
		whole = []string{"create", "start", "stop", "remove"}
		from = map[string]int{"sync-CONTAINER_CREATED": 1, "sync-CONTAINER_RUNNING": 2, "sync-CONTAINER_STOPPED": 3}
	}
	rest := whole
	if at, ok := from[life[0]]; ok {
		life = life[1:]
		if at < 0 { // a pod may have been stopped or not
			at = 1
			if len(life) > 0 && life[0] == "remove" {
				at = 2
			}
		}
		rest = whole[at:]
	}
	if len(life) > len(rest) || !slices.Equal(life, rest[:len(life)]) {
		t.Errorf("life of %s: %v", id, life)
	}
}

// TestNoPlugins: without plugins the node is asked nothing.
func TestNoPlugins(t *testing.T) {
	n := &fakeNode{}
	m := newManager(t, n, Known{})
	if err := live(t.Context(), m, "pod"); err != nil {
		t.Fatal(err)
	}
	if n.asked.Load() != 0 || len(m.pods)+len(m.containers) != 0 {
		t.Errorf("asked %d times, %d pods and %d containers left", n.asked.Load(), len(m.pods), len(m.containers))
	}
}

// TestKnown: what an earlier daemon had is synchronized in its state.
func TestKnown(t *testing.T) {
	m := newManager(t, &fakeNode{}, Known{
		Pods:       []KnownPod{{ID: "a"}, {ID: "b", Stopped: true}},
		Containers: []KnownContainer{{ID: "a/c", Pod: "a", Started: true}, {ID: "b/c", Pod: "b", Exited: true}},
	})
	p, _ := connect(t, m, "10")
	for _, id := range []string{"a/c", "b/c"} {
		if err := m.StopContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, want := range map[string]string{
		"a": "sync", "b": "sync", "a/c": "sync-CONTAINER_RUNNING stop", "b/c": "sync-CONTAINER_STOPPED",
	} {
		if got := strings.Join(p.lives[id], " "); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}

// TestPanic: a panic in the translation is an error.
func TestPanic(t *testing.T) {
	n := &fakeNode{}
	m := newManager(t, n, Known{})
	connect(t, m, "10")
	n.panics.Store(true)
	if err := m.RunPodSandbox(t.Context(), "pod", func() error { return nil }); !errdefs.IsInternal(err) {
		t.Errorf("error is %v", err)
	}
}

// TestNil: no manager is a manager without plugins.
func TestNil(t *testing.T) {
	var m *Manager
	if err := errors.Join(m.Start(Known{}), m.UpdatePodSandbox(t.Context(), "p", nil, nil)); err != nil {
		t.Error(err)
	}
	called := 0
	call := func() error { called++; return nil }
	_ = m.RunPodSandbox(t.Context(), "p", call)
	_ = m.StartContainer(t.Context(), "c", call, func() bool { return true })
	if called != 2 {
		t.Errorf("called %d times", called)
	}
	if _, err := m.UpdateContainer(t.Context(), "c", &runtimeapi.LinuxContainerResources{}); err != nil {
		t.Error(err)
	}
	m.Exited("c")
	m.Close()
}

// TestUpdates: failures are told, and those to be ignored are no error.
func TestUpdates(t *testing.T) {
	n := &fakeNode{}
	m := newManager(t, n, Known{})
	update := func(id string, ignore bool) *api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId(id)
		u.SetLinuxMemoryLimit(7)
		if ignore {
			u.SetIgnoreFailure()
		}
		return u
	}
	failed, err := m.updates(t.Context(), []*api.ContainerUpdate{update("missing", true), update("there", false), nil, {}})
	if err != nil || len(failed) != 1 || failed[0].GetContainerId() != "missing" {
		t.Errorf("%v, %v", failed, err)
	}
	if got, _ := n.updated.Load("there"); got != int64(7) {
		t.Errorf("updated to %v", got)
	}
	if _, err := m.updates(t.Context(), []*api.ContainerUpdate{update("missing", false)}); !errdefs.IsNotFound(err) {
		t.Errorf("error is %v", err)
	}
}

// BenchmarkNoPlugins is what NRI costs a pod with a container on a node without
// plugins.
func BenchmarkNoPlugins(b *testing.B) {
	dir := b.TempDir()
	m, err := New(b.Context(), Config{PluginDir: dir, RegistrationTimeout: time.Second, RequestTimeout: time.Second, Name: "b"}, &fakeNode{})
	if err != nil {
		b.Fatal(err)
	}
	if err := m.Start(Known{}); err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for b.Loop() {
		if err := live(b.Context(), m, "pod"); err != nil {
			b.Fatal(err)
		}
	}
}
