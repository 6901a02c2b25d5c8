package node

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/node/volumes"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// open makes the directories and reads the records.
func (s *Server) open(ctx context.Context) (err error) {
	for _, dir := range []string{s.dir("containers"), s.dir("logs"), s.dir("networks"), filepath.Dir(s.healthPath(""))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if s.volumes, err = volumes.Open(s.dir("volumes")); s.volumes == nil {
		return err
	}
	s.complain(ctx, err, "What is left of volumes cannot be removed", "") // kubelet's pods need not wait for that
	records, err := s.loadRecords()
	if err != nil {
		return err
	}
	// Where a name was given anew, the one that is to go has it no more.
	slices.SortStableFunc(records, func(a, b record) int { return cmp.Compare(last(a.Removing), last(b.Removing)) })
	for _, r := range records {
		e := newEntry(r)
		if err := s.table.add(e, func(func(string) bool) string { return short(r.ID) }); err != nil {
			// Two of one name: a rename was cut short by a power failure.
			e.rec.Name = short(r.ID)
			if err := s.table.add(e, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// last sorts what is so behind what is not.
func last(so bool) int {
	if so {
		return 1
	}
	return 0
}

// reconcile undoes what an earlier daemon could not finish: containers half
// made or removed, records without a container, containers and pods without a record. The
// last are those of builds that were under way.
func (s *Server) reconcile(ctx context.Context) error {
	log := klog.FromContext(ctx)
	s.table.mu.Lock()
	var half []*entry
	pods := map[string]bool{}
	for _, e := range s.table.byID {
		_, err := s.config.Containers.Get(e.id)
		if r := e.record(); r.Creating || r.Removing || err != nil {
			half = append(half, e)
		} else {
			pods[r.PodID] = true
		}
	}
	s.table.mu.Unlock()
	for _, e := range half {
		log.Info("Removing what is left of a container", "containerID", e.id, "name", e.name())
		if err := s.takeDown(ctx, e); err != nil {
			log.Error(err, "A container cannot be removed; it is tried again", "containerID", e.id)
			if !e.isGone() {
				s.removeLater(e) //nolint:contextcheck // it ends with the server
			}
		}
	}
	s.removeStrayLogs(ctx)
	for _, c := range s.config.Containers.List() {
		if st := c.Status(); st.Owner == Owner && !st.Infra && s.table.get(c.ID()) == nil {
			_, err := s.config.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID()})
			s.complain(ctx, err, "A container without a record cannot be removed", c.ID())
		}
	}
	for _, sb := range s.config.Sandboxes.List() {
		if st := sb.Status(); st.Params.Owner == Owner && !pods[st.ID] {
			_, err := s.config.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: st.ID})
			s.complain(ctx, err, "A pod without containers cannot be removed", st.ID)
		}
	}
	return nil
}

// removeStrayLogs removes logs of containers that are gone.
func (s *Server) removeStrayLogs(ctx context.Context) {
	entries, err := os.ReadDir(s.dir("logs"))
	s.complain(ctx, err, "Logs cannot be listed", "")
	for _, f := range entries {
		if id, _, _ := strings.Cut(f.Name(), "."); s.table.get(id) == nil {
			s.complain(ctx, os.Remove(s.dir("logs", f.Name())), "The log of a container that is gone cannot be removed", id)
		}
	}
}

func (s *Server) complain(ctx context.Context, err error, message, id string) {
	if err != nil {
		klog.FromContext(ctx).Error(err, message, "id", id)
	}
}

// boot goes on with a container where an earlier daemon, or the machine, left
// off.
func (s *Server) boot(ctx context.Context, e *entry) error {
	unlock, err := e.lock(ctx)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := s.config.Containers.Get(e.id)
	if err != nil {
		unlock()
		return err
	}
	s.loadHealth(ctx, e)
	switch st := c.Status(); st.State {
	case runtime.Running:
		s.startHealth(e, c) //nolint:contextcheck // it ends with the server
	case runtime.Exited:
		r := e.record()
		if !r.Started || !r.Restart.AtBoot(e.exit(st)) {
			break
		}
		err = s.update(e, func(r *record) { r.Stopped = false; r.Wait = 0 })
		if err == nil {
			err = s.start(ctx, e, nil)
		}
		if err != nil {
			e.unsettle()
		}
	default: // nothing of it runs yet
	}
	unlock()
	return errors.Join(err, s.tend(ctx, e))
}
