package nri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer tells of a container that is about to be made, and applies
// to its spec what plugins ask for. Limits may be nil for none changed. After
// an error, and where making it fails later, the caller tells RemoveContainer.
func (m *Manager) CreateContainer(ctx context.Context, c *Container, host Host) (limits *Adjusted, err error) {
	if m == nil {
		return nil, nil
	}
	id := c.Status.ID
	o := newObject(id, c.Status.Group)
	o.spec = c.Spec
	o.op <- struct{}{}
	defer func() { <-o.op }()
	var response *adaptation.CreateContainerResponse
	stopping := false
	err = m.tell("CreateContainer", func() {
		// Nothing is told of a pod's containers but their end once its own was.
		pod := m.pods[o.pod]
		if stopping = pod == nil || pod.phase == phaseStopped; !stopping {
			m.containers[id] = o
		}
	}, func() error {
		if stopping {
			return nil
		}
		pod, err := m.pod(o.pod)
		if err != nil {
			return err
		}
		container := c.translate()
		container.State = api.ContainerState_CONTAINER_CREATED
		response, err = m.adaptation.CreateContainer(ctx, &adaptation.CreateContainerRequest{Pod: pod, Container: container})
		if err != nil {
			return err
		}
		limits, err = m.adjust(c.Spec, response.GetAdjust(), host)
		return err
	})
	if stopping {
		return nil, fmt.Errorf("sandbox %s is being stopped: %w", o.pod, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	return limits, m.apply(ctx, "CreateContainer", response.GetUpdate(), response.GetEvict())
}

// PostCreateContainer tells that a container has been made.
func (m *Manager) PostCreateContainer(ctx context.Context, id string) {
	m.post(ctx, "PostCreateContainer", id, func(o *object) { o.spec = nil }, func(pod *api.PodSandbox, c *api.Container) error {
		return m.adaptation.PostCreateContainer(ctx, &adaptation.PostCreateContainerRequest{Pod: pod, Container: c})
	})
}

// post tells of a step that has been taken and that no plugin can refuse.
func (m *Manager) post(ctx context.Context, event, id string, enter func(*object), relay func(*api.PodSandbox, *api.Container) error) {
	if m == nil {
		return
	}
	o, unlock, err := m.find(ctx, m.containers, id)
	defer unlock()
	if err != nil || o == nil {
		m.noted(err, "containerID", id)
		return
	}
	m.noted(m.tell(event, func() { enter(o) }, func() error { return m.both(o, relay) }), "containerID", id)
}

// both translates a container and its pod.
func (m *Manager) both(o *object, relay func(*api.PodSandbox, *api.Container) error) error {
	pod, err := m.pod(o.pod)
	if err != nil {
		return err
	}
	container, err := m.container(o)
	if err != nil {
		return err
	}
	return relay(pod, container)
}

// StartContainer tells of a container that start is about to let go, and that
// it has. If start fails and leaves the container as it was, created says so,
// and it may be tried again.
func (m *Manager) StartContainer(ctx context.Context, id string, start func() error, created func() bool) error {
	if m == nil {
		return start()
	}
	o, unlock, err := m.find(ctx, m.containers, id)
	defer unlock()
	if err != nil {
		return err
	}
	if o == nil || m.at(o) != phaseCreated {
		return start() // which knows what is wrong
	}
	back := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		o.phase = phaseCreated
	}
	err = m.tell("StartContainer", func() { o.phase = phaseStarted }, func() error {
		return m.both(o, func(pod *api.PodSandbox, c *api.Container) error {
			c.State = api.ContainerState_CONTAINER_CREATED
			return m.adaptation.StartContainer(ctx, &adaptation.StartContainerRequest{Pod: pod, Container: c})
		})
	})
	if err != nil {
		back()
		return err
	}
	if err := start(); err != nil {
		if created() {
			back()
		}
		return err
	}
	m.noted(m.tell("PostStartContainer", func() {}, func() error {
		return m.both(o, func(pod *api.PodSandbox, c *api.Container) error {
			return m.adaptation.PostStartContainer(ctx, &adaptation.PostStartContainerRequest{Pod: pod, Container: c})
		})
	}), "containerID", id)
	return nil
}

// UpdateContainer tells of new limits before they are applied, and returns
// those that plugins made of them: nil is as asked for.
func (m *Manager) UpdateContainer(ctx context.Context, id string, asked *runtimeapi.LinuxContainerResources) (*api.LinuxResources, error) {
	if m == nil {
		return nil, nil
	}
	o, unlock, err := m.find(ctx, m.containers, id)
	defer unlock()
	if err != nil || o == nil {
		return nil, err
	}
	var response *adaptation.UpdateContainerResponse
	err = m.tell("UpdateContainer", func() {}, func() error {
		return m.both(o, func(pod *api.PodSandbox, c *api.Container) error {
			var err error
			response, err = m.adaptation.UpdateContainer(ctx, &adaptation.UpdateContainerRequest{
				Pod: pod, Container: c, LinuxResources: fromCRI(asked),
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	var own *api.LinuxResources
	var others []*api.ContainerUpdate
	for _, u := range response.GetUpdate() {
		switch {
		case u == nil: // no plugin had anything to say
		case u.GetContainerId() == id:
			own = u.GetLinux().GetResources()
		default:
			others = append(others, u)
		}
	}
	return own, m.apply(ctx, "UpdateContainer", others, response.GetEvict())
}

// PostUpdateContainer tells that new limits are in force.
func (m *Manager) PostUpdateContainer(ctx context.Context, id string) {
	m.post(ctx, "PostUpdateContainer", id, func(*object) {}, func(pod *api.PodSandbox, c *api.Container) error {
		return m.adaptation.PostUpdateContainer(ctx, &adaptation.PostUpdateContainerRequest{Pod: pod, Container: c})
	})
}

// Exited takes notice of a container that has ended, however. It does not wait.
func (m *Manager) Exited(id string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	o := m.containers[id]
	if o != nil {
		o.ended = true
	}
	m.mu.Unlock()
	if o != nil {
		m.stopLater(id)
	}
}

// StopContainer tells, once, that a container has ended. Plugins may change
// the limits of others then. The error is that of waiting.
func (m *Manager) StopContainer(ctx context.Context, id string) error {
	if m == nil {
		return nil
	}
	return m.stopContainer(ctx, id, func(*object) bool { return true })
}

// hasEnded tells a container whose end was noticed from one that was made since
// with the same id.
func (m *Manager) hasEnded(o *object) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return o.ended
}

func (m *Manager) stopContainer(ctx context.Context, id string, meant func(*object) bool) error {
	o, unlock, err := m.find(ctx, m.containers, id)
	defer unlock()
	if err != nil || o == nil || m.at(o) == phaseStopped || !meant(o) {
		return err
	}
	ctx = context.WithoutCancel(ctx) // it is told once
	var response *adaptation.StopContainerResponse
	m.noted(m.tell("StopContainer", func() { o.phase = phaseStopped }, func() error {
		return m.both(o, func(pod *api.PodSandbox, c *api.Container) error {
			var err error
			response, err = m.adaptation.StopContainer(ctx, &adaptation.StopContainerRequest{Pod: pod, Container: c})
			return err
		})
	}), "containerID", id)
	m.noted(m.apply(ctx, "StopContainer", response.GetUpdate(), nil), "containerID", id)
	return nil
}

// RemovingContainer takes note of what there is to say of a container that
// will have been removed when RemoveContainer tells.
func (m *Manager) RemovingContainer(id string) {
	if m == nil || !m.connected() {
		return
	}
	m.mu.Lock()
	o := m.containers[id]
	m.mu.Unlock()
	if o == nil {
		return
	}
	container, err := m.container(o)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o.lastContainer = container
}

// RemoveContainer tells that a container is gone, or never came to be.
func (m *Manager) RemoveContainer(ctx context.Context, id string) {
	if m == nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	o, unlock, _ := m.find(ctx, m.containers, id)
	defer unlock()
	if o == nil {
		return
	}
	container := &api.Container{Id: id, PodSandboxId: o.pod, State: api.ContainerState_CONTAINER_STOPPED}
	m.noted(m.tell("RemoveContainer", func() {
		delete(m.containers, id)
		o.gone = true
		if o.lastContainer != nil {
			container = o.lastContainer
		}
	}, func() error {
		pod, err := m.pod(o.pod)
		if err != nil {
			pod = &api.PodSandbox{Id: o.pod}
		}
		return m.adaptation.RemoveContainer(ctx, &adaptation.RemoveContainerRequest{Pod: pod, Container: container})
	}), "containerID", id)
}
