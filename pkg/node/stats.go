package node

import (
	"context"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Stats measures the containers named, or all that run.
func (s *containers) Stats(ctx context.Context, r *nodev1.StatsRequest) (*nodev1.StatsResponse, error) {
	var targets []target
	for _, name := range r.GetContainers() {
		t, err := s.find(name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if len(r.GetContainers()) == 0 {
		for _, c := range s.config.Containers.List() {
			if t, ok := s.seen(c); ok && c.Status().State == runtime.Running {
				targets = append(targets, t)
			}
		}
	}
	measured := make([]*runtime.Container, len(targets))
	for i, t := range targets {
		measured[i] = t.c
	}
	response := &nodev1.StatsResponse{MachineMemory: totalMemory()}
	for i, u := range s.config.CRI.Usages(ctx, measured) {
		m := &nodev1.Usage{
			Id: measured[i].ID(), Name: s.title(targets[i]), Time: u.Time.UnixNano(), Cpu: u.CPUNanoseconds,
			Memory: u.WorkingSet, MemoryLimit: u.MemoryLimit, NetworkReceived: u.Received, NetworkSent: u.Sent,
			BlockRead: u.Read, BlockWritten: u.Written, Pids: u.Tasks,
		}
		if targets[i].e == nil {
			if sb, err := s.config.Sandboxes.Get(measured[i].Status().Group); err == nil {
				m.Pod, m.Namespace = sb.Status().Params.Name, sb.Status().Params.Namespace
			}
		}
		response.Usages = append(response.Usages, m)
	}
	return response, nil
}
