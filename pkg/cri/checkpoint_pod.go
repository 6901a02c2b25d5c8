package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/checkpoint"
	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// CheckpointPod writes the state of containers of a pod at one moment to a
// directory, and lets them run on.
func (s *Server) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	if err := s.checkpointsEnabled(); err != nil {
		return nil, err
	}
	if err := checkpointCall(ctx, r.GetOptions()); err != nil {
		return nil, err
	}
	if err := emptyDirectory(r.GetOutputPath()); err != nil {
		return nil, fmt.Errorf("output_path: %w", err)
	}
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	containers, err := s.podContainers(sb.ID(), r.GetContainerIds())
	if err != nil {
		return nil, err
	}
	pod := checkpoint.Pod{ID: sb.ID()}
	err = s.checkpointAll(ctx, containers, func(i int, content checkpoint.Content) error {
		member := checkpoint.Member{ID: content.Container.ID, Name: content.Container.Name, Archive: fmt.Sprintf("container-%d.tar", i)}
		pod.Containers = append(pod.Containers, member)
		return s.writeArchive(ctx, filepath.Join(r.GetOutputPath(), member.Archive), content)
	})
	if err == nil {
		// What makes it a checkpoint of a pod comes last.
		err = s.config.CheckpointKey.WritePod(r.GetOutputPath(), pod)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("checkpoint sandbox %s: %w", sb.ID(), err), clearDirectory(r.GetOutputPath()))
	}
	return &runtimeapi.CheckpointPodResponse{}, nil
}

// checkpointCall checks what the calls for pods have in common.
func checkpointCall(ctx context.Context, options map[string]string) error {
	if _, limited := ctx.Deadline(); !limited {
		return fmt.Errorf("the call has no deadline: %w", errdefs.ErrInvalidArgument)
	}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		return fmt.Errorf("options[%q]: there is no such option: %w", key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// emptyDirectory wants a directory itself, not a link to one.
func emptyDirectory(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not absolute: %w", path, errdefs.ErrInvalidArgument)
	}
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return fmt.Errorf("%s is no directory: %w", path, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // it was only read
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is not empty: %w", path, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	return nil
}

// clearDirectory removes what a failed checkpoint has written.
func clearDirectory(path string) error {
	entries, err := os.ReadDir(path)
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(path, e.Name())))
	}
	return errors.Join(errs...)
}

// podContainers finds the containers that a request names.
func (s *Server) podContainers(sandboxID string, ids []string) ([]*runtime.Container, error) {
	if len(ids) == 0 {
		return nil, fmt.Errorf("container_ids: is empty: %w", errdefs.ErrInvalidArgument)
	}
	var list []*runtime.Container
	for i, id := range ids {
		c, err := s.findContainer(id)
		if err != nil {
			return nil, fmt.Errorf("container_ids[%d]: %w", i, err)
		}
		switch {
		case c.Status().Group != sandboxID:
			return nil, fmt.Errorf("container_ids[%d]: container %s is not in sandbox %s: %w", i, c.ID(), sandboxID, errdefs.ErrInvalidArgument)
		case slices.Contains(list, c):
			return nil, fmt.Errorf("container_ids[%d]: container %s is there twice: %w", i, c.ID(), errdefs.ErrInvalidArgument)
		case c.Status().State != runtime.Running:
			return nil, fmt.Errorf("container_ids[%d]: container %s is not running: %w", i, c.ID(), errdefs.ErrFailedPrecondition)
		}
		list = append(list, c)
	}
	return list, nil
}

// RestorePod makes a pod whose containers, once they are started, go on where
// those of a checkpoint were. On an error nothing of it is left.
func (s *Server) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	if err := s.checkpointsEnabled(); err != nil {
		return nil, err
	}
	if err := checkpointCall(ctx, r.GetOptions()); err != nil {
		return nil, err
	}
	if err := spec.ValidateSandbox(r.GetConfig()); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(r.GetCheckpointPath()) {
		return nil, fmt.Errorf("checkpoint_path: %q is not absolute: %w", r.GetCheckpointPath(), errdefs.ErrInvalidArgument)
	}
	pod, err := s.config.CheckpointKey.ReadPod(r.GetCheckpointPath())
	if err != nil {
		return nil, fmt.Errorf("checkpoint_path: %w", err)
	}
	from, err := s.podMembers(r, pod)
	if err != nil {
		return nil, err
	}
	key := sandboxKey(r.GetConfig().GetMetadata())
	if _, exists := s.sandboxes().Lookup(key); exists {
		return nil, fmt.Errorf("a sandbox of %s/%s with this uid and attempt exists: %w", key.Namespace, key.Name, errdefs.ErrAlreadyExists)
	}
	// It would go on when the time of this call is over, for a retry to find. Here
	// nobody looks for it: it is waited for, and undone.
	run, err := s.RunPodSandbox(context.WithoutCancel(ctx), &runtimeapi.RunPodSandboxRequest{Config: r.GetConfig(), RuntimeHandler: r.GetRuntimeHandler()})
	if err != nil {
		return nil, err
	}
	response := &runtimeapi.RestorePodResponse{PodSandboxId: run.GetPodSandboxId()}
	for i, config := range r.GetContainerConfigs() {
		id, err := s.restoreContainer(ctx, run.GetPodSandboxId(), config, from[i])
		if err != nil {
			return nil, errors.Join(fmt.Errorf("container_configs[%d]: %w", i, err), s.undoRun(ctx, run.GetPodSandboxId()))
		}
		response.RestoredContainers = append(response.RestoredContainers, &runtimeapi.RestoredContainer{Name: config.GetMetadata().GetName(), ContainerId: id})
	}
	return response, nil
}

// podMembers finds for each container of a request what it is restored from:
// the names must be exactly those in the checkpoint.
func (s *Server) podMembers(r *runtimeapi.RestorePodRequest, pod *checkpoint.Pod) ([]*restorable, error) {
	members := map[string]checkpoint.Member{}
	for _, m := range pod.Containers {
		members[m.Name] = m
	}
	if len(r.GetContainerConfigs()) != len(members) {
		return nil, fmt.Errorf("container_configs: has %d containers, the checkpoint %d: %w", len(r.GetContainerConfigs()), len(members), errdefs.ErrInvalidArgument)
	}
	var list []*restorable
	for i, config := range r.GetContainerConfigs() {
		name := config.GetMetadata().GetName()
		m, ok := members[name]
		if !ok {
			return nil, fmt.Errorf("container_configs[%d].metadata.name: the checkpoint has no container %q, or it is there twice: %w", i, name, errdefs.ErrInvalidArgument)
		}
		delete(members, name)
		if err := spec.ValidateContainer(config, r.GetConfig()); err != nil {
			return nil, fmt.Errorf("container_configs[%d]: %w", i, err)
		}
		from, err := s.archive(filepath.Join(r.GetCheckpointPath(), m.Archive))
		if err != nil {
			return nil, err
		}
		if from.manifest.Container.ID != m.ID || from.manifest.Container.Name != name || from.manifest.Container.Pod != pod.ID {
			return nil, fmt.Errorf("checkpoint_path: %s is of another container: %w", m.Archive, errdefs.ErrInvalidArgument)
		}
		from.strict = true
		img, err := s.config.Images.Resolve(config.GetImage().GetImage())
		if err != nil || img.ID != from.manifest.Container.ImageID {
			return nil, fmt.Errorf("container_configs[%d].image: the checkpoint was made from %s: %w", i, from.manifest.Container.ImageID, errors.Join(err, errdefs.ErrFailedPrecondition))
		}
		list = append(list, from)
	}
	return list, nil
}

// restoreContainer is CreateContainer of a restored container.
func (s *Server) restoreContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, from *restorable) (string, error) {
	sb, err := s.readySandbox(sandboxID)
	if err != nil {
		return "", err
	}
	st := sb.Status()
	key := containerKey{sandbox: st.ID, name: config.GetMetadata().GetName(), attempt: config.GetMetadata().GetAttempt()}
	return s.creates.do(ctx, key, func(ctx context.Context, at *progress.Stages) (string, error) {
		return s.createContainer(ctx, at, &creation{pod: &st, config: config, from: from})
	})
}
