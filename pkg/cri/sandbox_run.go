package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// RunPodSandbox makes a pod: namespaces, network, files and, where its
// containers share a pid namespace, the init of that.
func (s *Server) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id, err := s.CreatePod(ctx, r, Extras{})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// CreatePod is RunPodSandbox with extras.
func (s *Server) CreatePod(ctx context.Context, r *runtimeapi.RunPodSandboxRequest, extras Extras) (id string, err error) {
	if err := spec.ValidateSandbox(r.GetConfig()); err != nil {
		return "", err
	}
	if err := extras.validate(); err != nil {
		return "", err
	}
	handler, err := s.handler(r.GetRuntimeHandler())
	if err != nil {
		return "", err
	}
	if err := s.checkUserNS(r.GetConfig(), handler); err != nil {
		return "", err
	}
	key := podKey{sandboxKey(r.GetConfig().GetMetadata()), extras.Owner}
	id, err = s.runs.do(ctx, key, func(ctx context.Context, at *progress.Stages) (string, error) {
		return s.runSandbox(ctx, at, &podRequest{RunPodSandboxRequest: r, extras: extras, handler: handler})
	})
	if err != nil {
		return "", fmt.Errorf("run sandbox %s/%s: %w", key.Namespace, key.Name, err)
	}
	return id, nil
}

// podKey is what makes two requests for a pod one.
type podKey struct {
	sandbox.Key
	owner string
}

// podRequest is a request for a pod.
type podRequest struct {
	*runtimeapi.RunPodSandboxRequest
	extras  Extras
	handler *oci.Runtime
}

// id is that of the pod to be made.
func (e Extras) id() string {
	if e.ID != "" {
		return e.ID
	}
	return newID()
}

func sandboxKey(m *runtimeapi.PodSandboxMetadata) sandbox.Key {
	return sandbox.Key{Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid(), Attempt: m.GetAttempt()}
}

func (s *Server) runSandbox(ctx context.Context, at *progress.Stages, r *podRequest) (string, error) {
	// 1. A repeated request gets what the first one made.
	if sb, ok := s.sandboxes().Lookup(sandboxKey(r.GetConfig().GetMetadata())); ok {
		st := sb.Status()
		switch {
		case st.Params.Owner != r.extras.Owner || r.extras.ID != "" && r.extras.ID != st.ID:
			return "", fmt.Errorf("sandbox %s of somebody else has the same metadata: %w", st.ID, errdefs.ErrAlreadyExists)
		case s.sandboxState(&st) == runtimeapi.PodSandboxState_SANDBOX_READY:
			return st.ID, nil
		case st.State == sandbox.Creating:
			// What an earlier request could not undo; nobody can see it to remove it.
			if err := s.undoRun(ctx, st.ID); err != nil {
				return "", err
			}
			return s.runSandbox(ctx, at, r)
		}
		return "", fmt.Errorf("sandbox %s has the same metadata and is not ready any more: remove it, or use the next attempt: %w", sb.ID(), errdefs.ErrAlreadyExists)
	}
	// 2. The cgroup parent, which kubelet makes and other clients do not.
	ctx = at.Enter(ctx, "cgroup")
	id := r.extras.id()
	params, err := s.sandboxParams(id, r)
	if err != nil {
		return "", err
	}
	// 3. Record, namespaces, files, network: the stages are the sandbox's own.
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("sandboxID", id))
	sb, err := s.sandboxes().Create(ctx, id, params)
	if err != nil {
		return "", errors.Join(err, s.giveBack(ctx, id, params))
	}
	st := sb.Status()
	if err := s.labelFiles(&st); err != nil {
		return "", errors.Join(err, s.undoRun(ctx, id))
	}
	// 4. The init of a shared pid namespace.
	if params.SharedPID {
		ctx = at.Enter(ctx, "init of the pid namespace")
		if err := s.startInfra(ctx, st, r.handler); err != nil {
			return "", errors.Join(err, s.undoRun(ctx, id))
		}
	}
	// 5. From here on it is in every list.
	ctx = at.Enter(ctx, "record")
	if err := s.nri.RunPodSandbox(ctx, id, func() error { return sb.MarkReady(ctx) }); err != nil {
		return "", errors.Join(err, s.undoRun(ctx, id))
	}
	return id, nil
}

// undoTimeout bounds the undoing of a request whose own time may be over.
const undoTimeout = time.Minute

// stopSliceTimeout bounds the waiting for a systemd that does not answer.
const stopSliceTimeout = 5 * time.Second

// undoRun removes a sandbox that did not become ready.
func (s *Server) undoRun(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(progress.Enter(ctx, "undo")), undoTimeout)
	defer cancel()
	ctx = progress.Listen(ctx, nil) // its steps are not those of the request
	return s.removeSandbox(ctx, id)
}

// sandboxParams translates the request, and makes the cgroup parent where it
// is not there.
func (s *Server) sandboxParams(id string, r *podRequest) (sandbox.Params, error) {
	config := r.GetConfig()
	parent, err := s.cgroupParent(config.GetLinux().GetCgroupParent())
	if err != nil {
		return sandbox.Params{}, err
	}
	labels, err := s.podLabels(id, config)
	if err != nil {
		return sandbox.Params{}, err
	}
	view := &sandboxView{Config: config, SELinux: labels}
	dir := s.cgroupDir(parent)
	missing := !s.config.Cgroups.Exists(dir)
	view.MadeCgroup = missing && parent != s.config.CgroupRoot
	request, err := view.encode()
	if err == nil && missing {
		if err = s.config.Cgroups.Create(dir); err != nil {
			err = fmt.Errorf("config.linux.cgroup_parent: %w", err)
		}
	}
	if err != nil {
		s.config.Confinement.SELinux.Release(id)
		return sandbox.Params{}, err
	}
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	p := sandbox.Params{
		Key:            sandboxKey(config.GetMetadata()),
		Labels:         config.GetLabels(),
		Annotations:    config.GetAnnotations(),
		Hostname:       config.GetHostname(),
		PortMappings:   portMappings(config.GetPortMappings()),
		HostNetwork:    options.GetNetwork() == runtimeapi.NamespaceMode_NODE,
		HostIPC:        options.GetIpc() == runtimeapi.NamespaceMode_NODE,
		HostPID:        options.GetPid() == runtimeapi.NamespaceMode_NODE,
		SharedPID:      options.GetPid() == runtimeapi.NamespaceMode_POD,
		UserNS:         spec.UserNS(config),
		CgroupParent:   parent,
		Sysctls:        config.GetLinux().GetSysctls(),
		RuntimeHandler: r.GetRuntimeHandler(),
		LogDirectory:   config.GetLogDirectory(),
		Request:        request,
		Owner:          r.extras.Owner,
		NoNetwork:      r.extras.NoNetwork,
		ShmSize:        r.extras.ShmSize,
		ExtraHosts:     r.extras.ExtraHosts,
	}
	if dns := config.GetDnsConfig(); dns != nil {
		p.DNS = &sandbox.DNS{Servers: dns.GetServers(), Searches: dns.GetSearches(), Options: dns.GetOptions()}
	}
	return p, nil
}

func portMappings(mappings []*runtimeapi.PortMapping) []network.PortMapping {
	var list []network.PortMapping
	for _, m := range mappings {
		if m.GetHostPort() == 0 {
			continue // kubelet and critest list the ports of containers so
		}
		list = append(list, network.PortMapping{
			Protocol:      strings.ToLower(m.GetProtocol().String()),
			ContainerPort: m.GetContainerPort(),
			HostPort:      m.GetHostPort(),
			HostIP:        m.GetHostIp(),
		})
	}
	return list
}

// giveBack releases what a sandbox has that its manager does not know of: its
// SELinux level, and a cgroup parent that it brought about.
func (s *Server) giveBack(ctx context.Context, id string, p sandbox.Params) error {
	s.config.Confinement.SELinux.Release(id)
	view := &sandboxView{Config: &runtimeapi.PodSandboxConfig{}}
	if len(p.Request) == 0 {
		return nil
	}
	if err := decodeView(p.Request, view.Config, view); err != nil {
		return err
	}
	if !view.MadeCgroup {
		return nil
	}
	dir := s.cgroupDir(p.CgroupParent)
	if pids, err := s.config.Cgroups.Processes(dir); err != nil || len(pids) > 0 {
		return err // another sandbox with the same parent uses it
	}
	if err := s.config.Cgroups.Remove(dir); err != nil || !s.config.SystemdCgroup {
		return err
	}
	// Kubelet stops the slices it makes; this one nobody else would.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopSliceTimeout)
	defer cancel()
	if err := linux.StopSlice(ctx, p.CgroupParent); err != nil {
		klog.FromContext(ctx).Error(err, "A pod's slice stays with systemd")
	}
	return nil
}

// sandboxes shortens what every call needs.
func (s *Server) sandboxes() *sandbox.Manager { return s.config.Sandboxes }
