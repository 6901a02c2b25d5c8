package node

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/names"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/node/restart"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Update changes the limits of a container, and when it is restarted.
func (s *containers) Update(ctx context.Context, r *nodev1.UpdateRequest) (*nodev1.UpdateResponse, error) {
	t, err := s.findToChange(r.GetContainer(), r.GetForce())
	if err != nil {
		return nil, err
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var policy restart.Policy
	if r.GetRestart() != nil {
		if policy, err = restart.Parse(r.GetRestart().GetName(), r.GetRestart().GetMaximum()); err != nil {
			return nil, err
		}
		switch {
		case t.e == nil:
			return nil, refused("container %q belongs to Kubernetes: its restarts are kubelet's", s.title(t))
		case t.e.record().AutoRemove && !policy.None():
			return nil, refused("container %q is removed when it exits, and cannot be restarted", s.title(t))
		}
	}
	if r.GetResources() != nil {
		if err := s.limit(ctx, t, r.GetResources()); err != nil {
			return nil, err
		}
	}
	if r.GetRestart() != nil {
		if err := s.update(t.e, func(r *record) { r.Restart = policy }); err != nil {
			return nil, err
		}
		if policy.None() && t.e.endWait() {
			if err := s.finish(ctx, t.e, t.c); err != nil {
				return nil, err
			}
		}
	}
	s.tell(t, "update", nil)
	return &nodev1.UpdateResponse{}, nil
}

// limit changes the limits that are in force, or will be with the next start.
func (s *Server) limit(ctx context.Context, t target, limits *runtimeapi.LinuxContainerResources) error {
	if t.e != nil && t.c.Status().State == runtime.Exited {
		return s.config.CRI.RelimitContainer(ctx, t.c.ID(), limits)
	}
	_, err := s.config.CRI.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: t.c.ID(), Linux: limits})
	return err
}

// Rename gives a container another name.
func (s *containers) Rename(ctx context.Context, r *nodev1.RenameRequest) (*nodev1.RenameResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	if t.e == nil {
		return nil, refused("container %q belongs to Kubernetes, which knows it by its name", s.title(t))
	}
	if err := names.Validate("name", r.GetName()); err != nil {
		return nil, err
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before := t.e.name()
	if before == r.GetName() {
		return nil, refused("container %q has that name", before)
	}
	err = s.table.rename(t.e, r.GetName(), func() error {
		return s.update(t.e, func(rec *record) { rec.Name = r.GetName() })
	})
	if err != nil {
		return nil, err
	}
	s.tell(t, "rename", map[string]string{"oldName": before})
	s.refreshNetworks(ctx, t.e.record().Networks)
	return &nodev1.RenameResponse{}, nil
}
