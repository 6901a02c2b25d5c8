package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
)

// ListContainers lists the containers that match every part of the filter. Its
// items are for sending only.
func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f := r.GetFilter()
	list := func() *runtimeapi.ListContainersResponse {
		return &runtimeapi.ListContainersResponse{Containers: s.listContainers(f)}
	}
	if f.GetId()+f.GetPodSandboxId() != "" || len(f.GetLabelSelector()) > 0 {
		return list(), nil
	}
	state := int32(anyState)
	if f.GetState() != nil {
		state = int32(f.GetState().GetState())
	}
	return s.lists.containers.of(state, s.config.Containers.Revision(), list), nil
}

func (s *Server) listContainers(f *runtimeapi.ContainerFilter) (items []*runtimeapi.Container) {
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		state := containerState(st.State)
		if st.Infra || hidden(st.Owner, f.GetId()+f.GetPodSandboxId(), f.GetLabelSelector()) ||
			f.GetId() != "" && !isPrefix(f.GetId(), st.ID) ||
			f.GetPodSandboxId() != "" && !isPrefix(f.GetPodSandboxId(), st.Group) ||
			f.GetState() != nil && f.GetState().GetState() != state ||
			!selects(f.GetLabelSelector(), st.Labels) {
			continue
		}
		items = append(items, s.listedContainer(st))
	}
	return items
}

func containerMetadata(st *runtime.Status) *runtimeapi.ContainerMetadata {
	name := st.Name
	if st.Reason == runtime.ReasonRecordBroken {
		name = "broken-" + st.ID // clients refuse a container without a name
	}
	return &runtimeapi.ContainerMetadata{Name: name, Attempt: st.Attempt}
}

func containerState(state runtime.State) runtimeapi.ContainerState {
	switch state {
	case runtime.Created:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case runtime.Running:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case runtime.Exited:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	default:
		return runtimeapi.ContainerState_CONTAINER_UNKNOWN
	}
}

// ContainerStatus describes one container. One that is not there is NotFound.
func (s *Server) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	st := c.Status()
	response := &runtimeapi.ContainerStatusResponse{Status: s.containerStatus(st)}
	if r.GetVerbose() {
		if response.Info, err = s.containerInfo(c, st); err != nil {
			return nil, err
		}
	}
	return response, nil
}

func (s *Server) containerStatus(st *runtime.Status) *runtimeapi.ContainerStatus {
	view := s.containerView(st)
	status := &runtimeapi.ContainerStatus{
		Id:          st.ID,
		Metadata:    containerMetadata(st),
		State:       containerState(st.State),
		CreatedAt:   st.CreatedAt.UnixNano(),
		StartedAt:   nanoseconds(st.StartedAt),
		FinishedAt:  nanoseconds(st.FinishedAt),
		ExitCode:    int32(st.ExitCode),
		Image:       &runtimeapi.ImageSpec{Image: view.UserSpecifiedImage, UserSpecifiedImage: view.UserSpecifiedImage},
		ImageRef:    view.ImageRef,
		ImageId:     st.ImageID,
		Reason:      st.Reason,
		Message:     st.Message,
		Labels:      st.Labels,
		Annotations: st.Annotations,
		Mounts:      view.Config.GetMounts(),
		LogPath:     st.LogPath,
		User:        view.User.CRI(),
		StopSignal:  stopSignal(view.StopSignal),
	}
	if st.Reason == runtime.ReasonRecordBroken {
		status.Image.Image, status.ImageRef = "unknown", "unknown"
	}
	if resources := view.Config.GetLinux().GetResources(); resources != nil {
		status.Resources = &runtimeapi.ContainerResources{Linux: resources}
	}
	if st.State == runtime.Created {
		status.StartedAt = 0
	}
	return status
}

// nanoseconds is 0 for a time that has not come.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// stopSignal is the enum's value for a signal's name; names outside the enum
// are reported as the default.
func stopSignal(name string) runtimeapi.Signal {
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}

func (s *Server) containerInfo(c *runtime.Container, st *runtime.Status) (map[string]string, error) {
	info := map[string]any{
		"sandboxID": st.Group,
		"pid":       st.Process.PID,
		"handler":   st.Handler,
		"cgroup":    st.Cgroup,
		"config":    s.containerView(st).Config,
		"rootfs":    c.RootfsPath(),
	}
	if created, err := c.Spec(); err == nil {
		info["runtimeSpec"] = created
	}
	return verbose(info)
}
