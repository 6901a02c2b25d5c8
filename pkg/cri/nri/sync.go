package nri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"k8s.io/klog/v2"
)

// applyLimit bounds the updates that plugins ask for at a time.
const applyLimit = 30 * time.Second

// synchronize tells a new plugin what there is. The library lets no step be
// told meanwhile, but for that of plugins that are started with the daemon.
func (m *Manager) synchronize(ctx context.Context, send adaptation.SyncCB) error {
	ctx = klog.NewContext(ctx, m.log)
	return m.guard("Synchronize", func() error {
		pods, containers := m.known()
		// It belongs to the registration, and is more work than any other
		// request. No other is sent now that could take this for its limit.
		adaptation.SetPluginRequestTimeout(max(m.config.RegistrationTimeout, m.config.RequestTimeout))
		updates, err := send(ctx, pods, containers)
		adaptation.SetPluginRequestTimeout(m.config.RequestTimeout)
		if err != nil {
			return err
		}
		m.noted(m.apply(ctx, "Synchronize", updates, nil))
		return nil
	})
}

// known translates the table, oldest first.
func (m *Manager) known() ([]*api.PodSandbox, []*api.Container) {
	m.mu.Lock()
	var podObjects, containerObjects []*object
	for _, o := range m.pods {
		podObjects = append(podObjects, o)
	}
	for _, o := range m.containers {
		containerObjects = append(containerObjects, o)
	}
	m.mu.Unlock()
	var pods []*api.PodSandbox
	for _, o := range podObjects {
		// One that is not there is being removed; that is told when it is done.
		if p, err := m.pod(o.id); err == nil {
			pods = append(pods, p)
		}
	}
	var containers []*api.Container
	for _, o := range containerObjects {
		if c, err := m.container(o); err == nil {
			containers = append(containers, c)
		}
	}
	slices.SortFunc(pods, func(a, b *api.PodSandbox) int { return cmp.Compare(a.GetId(), b.GetId()) })
	slices.SortFunc(containers, func(a, b *api.Container) int {
		return cmp.Or(cmp.Compare(a.GetCreatedAt(), b.GetCreatedAt()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return pods, containers
}

// updates does what a plugin asks for by itself, and returns what failed.
func (m *Manager) updates(ctx context.Context, asked []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	ctx = klog.NewContext(ctx, m.log)
	err = m.guard("UpdateContainers", func() error {
		var errs []error
		failed, errs = m.update(ctx, asked)
		return errors.Join(errs...)
	})
	return failed, err
}

// apply does what plugins answered to a step.
func (m *Manager) apply(ctx context.Context, event string, updates []*api.ContainerUpdate, evictions []*api.ContainerEviction) error {
	for _, e := range evictions {
		m.evict(ctx, e)
	}
	if len(updates) == 0 {
		return nil
	}
	return m.guard(event, func() error {
		_, errs := m.update(ctx, updates)
		return errors.Join(errs...)
	})
}

// update changes limits of containers one after another. It goes on when one
// fails; an error is one that the plugin does not want ignored.
func (m *Manager) update(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, errs []error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyLimit)
	defer cancel()
	for _, u := range updates {
		if u == nil || u.GetLinux().GetResources() == nil {
			continue
		}
		err := m.node.Update(ctx, u.GetContainerId(), u.GetLinux().GetResources())
		if err == nil {
			continue
		}
		failed = append(failed, u)
		if u.GetIgnoreFailure() {
			m.log.V(logInfo).Info("An update that an NRI plugin asked for failed", "containerID", u.GetContainerId(), "err", err)
			continue
		}
		errs = append(errs, fmt.Errorf("update container %s: %w", u.GetContainerId(), err))
	}
	return failed, errs
}

// evict stops a container aside from what goes on: its end is a step to tell.
// It is given up when the Manager is closed.
func (m *Manager) evict(ctx context.Context, e *api.ContainerEviction) {
	ctx = klog.NewContext(context.WithoutCancel(ctx), m.log)
	m.spawn(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		done := make(chan struct{})
		defer close(done)
		m.work.Go(func() {
			select {
			case <-m.closing:
				cancel()
			case <-done:
			}
		})
		err := m.guard("evict", func() error { return m.node.Evict(ctx, e.GetContainerId(), e.GetReason()) })
		if err != nil {
			m.log.Error(err, "A container that an NRI plugin wants evicted stays", "containerID", e.GetContainerId())
		}
	})
}
