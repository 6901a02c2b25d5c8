package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

// Reconcile removes, after every layer has recovered by itself, what only two
// of them together can know to be nobody's: containers without a sandbox, root
// file systems without a container. It must be called before Serve.
func (s *Server) Reconcile(ctx context.Context) {
	log := klog.FromContext(ctx)
	known := map[string]bool{}
	for _, sb := range s.sandboxes().List() {
		known[sb.ID()] = true
		st := sb.Status()
		if err := s.config.Confinement.SELinux.Reserve(st.ID, s.sandboxView(&st).SELinux); err != nil {
			log.Error(err, "The SELinux level of a sandbox could be given to another", "sandboxID", sb.ID())
		}
	}
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		switch {
		case st.Group == "" || known[st.Group]:
			// An empty group is that of a broken record, which stays visible.
		default:
			log.Info("Removing a container whose sandbox is gone", "containerID", st.ID, "sandboxID", st.Group)
			if err := guard.Call(log, "removal", func() error { return s.undoCreate(ctx, c) }); err != nil {
				log.Error(err, "Cannot remove a container whose sandbox is gone", "containerID", st.ID)
			}
		}
	}
	s.stopUnready(ctx)
	for _, id := range s.config.Images.ListRootfs() {
		if _, err := s.config.Containers.Get(id); err == nil {
			continue
		}
		if err := s.config.Images.RemoveRootfs(ctx, id); err != nil {
			log.Error(err, "Cannot remove the root file system of a container that is gone", "containerID", id)
		}
	}
}

// stopUnready ends what still runs in sandboxes that are not ready: a stop
// that the daemon's death cut short, or a pod whose namespaces are gone.
func (s *Server) stopUnready(ctx context.Context) {
	for _, sb := range s.sandboxes().List() {
		if st := sb.Status(); s.sandboxState(&st) == runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		// One that hangs must not keep the daemon from serving the others.
		bounded, cancel := context.WithTimeout(ctx, undoTimeout)
		if err := guard.Call(klog.FromContext(ctx), "stop", func() error { return s.stopSandbox(bounded, sb.ID()) }); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot stop a sandbox that is not ready", "sandboxID", sb.ID())
		}
		cancel()
		s.stopping.forget(sb.ID())
	}
}
