package nri

import (
	"context"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPodSandbox tells of a pod that is about to become ready, and lets commit
// make it so if no plugin refuses. A plugin that connects meanwhile waits. After
// an error the caller tells StopPodSandbox and RemovePodSandbox, as for any pod.
func (m *Manager) RunPodSandbox(ctx context.Context, id string, commit func() error) error {
	if m == nil {
		return commit()
	}
	o := newObject(id, "")
	o.phase = phaseStarted
	o.op <- struct{}{}
	defer func() { <-o.op }()
	block := m.adaptation.BlockPluginSync()
	defer block.Unblock()
	m.mu.Lock()
	m.pods[id] = o
	m.mu.Unlock()
	if m.connected() {
		err := m.guard("RunPodSandbox", func() error {
			pod, err := m.pod(id)
			if err != nil {
				return err
			}
			return m.adaptation.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: pod})
		})
		if err != nil {
			return err
		}
	}
	return commit()
}

// UpdatePodSandbox tells of new limits of a pod before they are noted.
func (m *Manager) UpdatePodSandbox(ctx context.Context, id string, overhead, resources *runtimeapi.LinuxContainerResources) error {
	return m.tellPod(ctx, "UpdatePodSandbox", id, func(pod *api.PodSandbox) error {
		_, err := m.adaptation.UpdatePodSandbox(ctx, &adaptation.UpdatePodSandboxRequest{
			Pod: pod, OverheadLinuxResources: fromCRI(overhead), LinuxResources: fromCRI(resources),
		})
		return err
	})
}

// PostUpdatePodSandbox tells that the new limits have been noted.
func (m *Manager) PostUpdatePodSandbox(ctx context.Context, id string) {
	m.noted(m.tellPod(ctx, "PostUpdatePodSandbox", id, func(pod *api.PodSandbox) error {
		return m.adaptation.PostUpdatePodSandbox(ctx, &adaptation.PostUpdatePodSandboxRequest{Pod: pod})
	}), "sandboxID", id)
}

// tellPod tells of a step that changes no phase.
func (m *Manager) tellPod(ctx context.Context, event, id string, relay func(*api.PodSandbox) error) error {
	if m == nil {
		return nil
	}
	o, unlock, err := m.find(ctx, m.pods, id)
	defer unlock()
	if err != nil || o == nil {
		return err
	}
	return m.tell(event, func() {}, func() error {
		pod, err := m.pod(id)
		if err != nil {
			return err
		}
		return relay(pod)
	})
}

// StopPodSandbox tells, once, that the containers of a pod have ended and the
// pod is about to. No plugin can keep a pod from stopping; the error is that of
// waiting.
func (m *Manager) StopPodSandbox(ctx context.Context, id string) error {
	if m == nil {
		return nil
	}
	o, unlock, err := m.find(ctx, m.pods, id)
	defer unlock()
	if err != nil || o == nil || m.at(o) == phaseStopped {
		return err
	}
	ctx = context.WithoutCancel(ctx) // it is told once
	m.noted(m.tell("StopPodSandbox", func() { o.phase = phaseStopped }, func() error {
		pod, err := m.pod(id)
		if err != nil {
			return err
		}
		return m.adaptation.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: pod})
	}), "sandboxID", id)
	return nil
}

// RemovingPodSandbox takes note of what there is to say of a pod that will have
// been removed when RemovePodSandbox tells.
func (m *Manager) RemovingPodSandbox(id string) {
	if m == nil || !m.connected() {
		return
	}
	pod, err := m.pod(id)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.pods[id]; o != nil {
		o.lastPod = pod
	}
}

// RemovePodSandbox tells that a pod is gone.
func (m *Manager) RemovePodSandbox(ctx context.Context, id string) {
	if m == nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	o, unlock, _ := m.find(ctx, m.pods, id)
	defer unlock()
	if o == nil {
		return
	}
	pod := &api.PodSandbox{Id: id}
	m.noted(m.tell("RemovePodSandbox", func() {
		delete(m.pods, id)
		o.gone = true
		if o.lastPod != nil {
			pod = o.lastPod
		}
	}, func() error {
		return m.adaptation.RemovePodSandbox(ctx, &adaptation.RemovePodSandboxRequest{Pod: pod})
	}), "sandboxID", id)
}

// noted logs what a plugin had against a step that happens nevertheless.
func (m *Manager) noted(err error, about ...any) {
	if err != nil {
		m.log.Error(err, "An NRI plugin failed, which changes nothing", about...)
	}
}
