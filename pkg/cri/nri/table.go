package nri

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// phase is the last step that plugins have been told of an object.
type phase int

const (
	phaseCreated phase = iota
	phaseStarted
	phaseStopped
)

// object is what plugins have been told of one pod or container.
type object struct {
	id string
	// pod is the sandbox of a container.
	pod string
	// op holds one token; who has it tells the object's next step.
	op chan struct{}

	// Manager.mu guards these.
	phase phase
	gone  bool
	// ended: the container has ended, but nobody was told yet.
	ended bool
	// spec of a container that is being made, for who connects meanwhile.
	spec *specs.Spec
	// The last that could be said of an object that is being removed.
	lastPod       *api.PodSandbox
	lastContainer *api.Container
}

// Known is what is on the node when the daemon starts.
type Known struct {
	Pods       []KnownPod
	Containers []KnownContainer
}

// KnownPod is a pod of an earlier daemon.
type KnownPod struct {
	ID      string
	Stopped bool
}

// KnownContainer is a container of an earlier daemon.
type KnownContainer struct {
	ID, Pod         string
	Started, Exited bool
}

func (m *Manager) fill(known Known) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range known.Pods {
		o := newObject(p.ID, "")
		o.phase = phaseStarted
		if p.Stopped {
			o.phase = phaseStopped
		}
		m.pods[p.ID] = o
	}
	for _, c := range known.Containers {
		o := newObject(c.ID, c.Pod)
		switch {
		case c.Exited:
			o.phase = phaseStopped
		case c.Started:
			o.phase = phaseStarted
		}
		m.containers[c.ID] = o
	}
}

func newObject(id, pod string) *object {
	return &object{id: id, pod: pod, op: make(chan struct{}, 1)}
}

// find returns an entry of one of the two tables and takes it for one step.
// Without an entry o is nil. The caller must call unlock in any case.
func (m *Manager) find(ctx context.Context, table map[string]*object, id string) (o *object, unlock func(), err error) {
	m.mu.Lock()
	o = table[id]
	m.mu.Unlock()
	if o == nil {
		return nil, func() {}, nil
	}
	for _, wait := range []func() error{
		func() error {
			select {
			case <-m.started:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
		func() error {
			select {
			case o.op <- struct{}{}:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		},
	} {
		if err := wait(); err != nil {
			return nil, func() {}, fmt.Errorf("wait for NRI plugins about %s: %w", id, err)
		}
	}
	unlock = func() { <-o.op }
	m.mu.Lock()
	gone := o.gone
	m.mu.Unlock()
	if gone {
		unlock()
		return nil, func() {}, nil
	}
	return o, unlock, nil
}

// at reads the phase of an object.
func (m *Manager) at(o *object) phase {
	m.mu.Lock()
	defer m.mu.Unlock()
	return o.phase
}
