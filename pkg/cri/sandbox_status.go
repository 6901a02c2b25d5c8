package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// PodSandboxStatus describes one pod. One that is not there is NotFound.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	// The time comes first: what happens after it may or may not be in the rest.
	response := &runtimeapi.PodSandboxStatusResponse{Timestamp: time.Now().UnixNano()}
	st := sb.Status()
	response.Status = s.sandboxStatus(&st)
	response.ContainersStatuses = s.containerStatuses(st.ID, "")
	if r.GetVerbose() {
		if response.Info, err = s.sandboxInfo(&st); err != nil {
			return nil, err
		}
	}
	return response, nil
}

// findSandbox finds a sandbox by its id or the beginning of it. One that is
// being created is not there yet.
func (s *Server) findSandbox(id string) (*sandbox.Sandbox, error) {
	if sb, err := s.sandboxes().Get(id); err == nil && sb.Status().State != sandbox.Creating {
		return sb, nil
	}
	var found *sandbox.Sandbox
	for _, sb := range s.sandboxes().List() {
		if !isPrefix(id, sb.ID()) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("pod_sandbox_id: %q begins the ids of several sandboxes: %w", id, errdefs.ErrInvalidArgument)
		}
		found = sb
	}
	if found == nil {
		return nil, fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound)
	}
	return found, nil
}

// isPrefix reports whether what a person typed begins an id. Nothing typed
// begins none.
func isPrefix(prefix, id string) bool {
	return prefix != "" && len(prefix) <= len(id) && id[:len(prefix)] == prefix
}

// sandboxState follows from the facts: a pod whose shared pid namespace has
// lost its init can run nothing any more, whatever else it still has.
func (s *Server) sandboxState(st *sandbox.Status) runtimeapi.PodSandboxState {
	if st.State != sandbox.Ready || st.Params.SharedPID && !s.hasInit(st.ID) {
		return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return runtimeapi.PodSandboxState_SANDBOX_READY
}

func (s *Server) hasInit(sandboxID string) bool {
	c, err := s.config.Containers.Get(sandboxID)
	return err == nil && c.Status().State == runtime.Running
}

func (s *Server) sandboxStatus(st *sandbox.Status) *runtimeapi.PodSandboxStatus {
	view := s.sandboxView(st)
	return &runtimeapi.PodSandboxStatus{
		Id:        st.ID,
		Metadata:  sandboxMetadata(st),
		State:     s.sandboxState(st),
		CreatedAt: st.CreatedAt.UnixNano(),
		Network:   networkStatus(st.IPs),
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: namespaceOptions(view.Config),
		}},
		Labels:         st.Params.Labels,
		Annotations:    st.Params.Annotations,
		RuntimeHandler: st.Params.RuntimeHandler,
	}
}

func sandboxMetadata(st *sandbox.Status) *runtimeapi.PodSandboxMetadata {
	k := st.Params.Key
	if st.Broken != "" {
		k.Name = "broken-" + st.ID // clients refuse a pod without a name
	}
	return &runtimeapi.PodSandboxMetadata{Name: k.Name, Uid: k.UID, Namespace: k.Namespace, Attempt: k.Attempt}
}

func namespaceOptions(config *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	if o := config.GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return &runtimeapi.NamespaceOption{}
}

// networkStatus reports the first address CNI gave as the pod's own.
func networkStatus(ips []netip.Addr) *runtimeapi.PodSandboxNetworkStatus {
	status := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range ips {
		if i == 0 {
			status.Ip = ip.String()
			continue
		}
		status.AdditionalIps = append(status.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return status
}

func (s *Server) sandboxInfo(st *sandbox.Status) (map[string]string, error) {
	info := map[string]any{
		"config":         s.sandboxView(st).Config,
		"runtimeHandler": st.Params.RuntimeHandler,
		"cgroupParent":   st.Params.CgroupParent,
		"namespaces":     st.Namespaces,
		"cniResult":      st.NetworkResult,
		"reason":         st.Reason,
		"broken":         st.Broken,
		"networkDebt":    st.Debt,
	}
	if c, err := s.config.Containers.Get(st.ID); err == nil {
		info["pid"] = c.Status().Process.PID
	}
	return verbose(info)
}

// verbose puts what a verbose call tells under the one key crictl looks at.
func verbose(info map[string]any) (map[string]string, error) {
	b, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encode verbose information: %w", err)
	}
	return map[string]string{"info": string(b)}, nil
}

// ListPodSandbox lists the pods that match every part of the filter. Its items
// are for sending only.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f := r.GetFilter()
	list := func() *runtimeapi.ListPodSandboxResponse {
		return &runtimeapi.ListPodSandboxResponse{Items: s.listSandboxes(f)}
	}
	if f.GetId() != "" || len(f.GetLabelSelector()) > 0 {
		return list(), nil
	}
	state := int32(anyState)
	if f.GetState() != nil {
		state = int32(f.GetState().GetState())
	}
	// Both numbers only grow: the sum is another one after each change.
	revision := s.sandboxes().Revision() + s.config.Containers.Revision()
	return s.lists.sandboxes.of(state, revision, list), nil
}

func (s *Server) listSandboxes(f *runtimeapi.PodSandboxFilter) (items []*runtimeapi.PodSandbox) {
	for _, sb := range s.sandboxes().List() {
		st := sb.Snapshot()
		state := s.sandboxState(st)
		if hidden(st.Params.Owner, f.GetId(), f.GetLabelSelector()) ||
			f.GetId() != "" && !isPrefix(f.GetId(), st.ID) ||
			f.GetState() != nil && f.GetState().GetState() != state ||
			!selects(f.GetLabelSelector(), st.Params.Labels) {
			continue
		}
		items = append(items, s.listedSandbox(st, state))
	}
	return items
}

// selects reports whether labels hold every pair of a selector.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
