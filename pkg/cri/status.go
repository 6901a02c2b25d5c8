package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// What Version answers; kubelet shows runtimeName and the version in the node's
// information.
const (
	kubeAPIVersion    = "0.1.0"
	runtimeName       = "cri-node"
	runtimeAPIVersion = "v1"
)

// Version of the runtime. It ignores the version asked for, as CRI says.
func (s *Server) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeAPIVersion,
		RuntimeName:       runtimeName,
		RuntimeVersion:    s.config.Version,
		RuntimeApiVersion: runtimeAPIVersion,
	}, nil
}

// Status tells whether pods can be run, and if not, what to do about it.
func (s *Server) Status(ctx context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	ready := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	if s.config.MonitorPID() == 0 {
		ready.Status = false
		ready.Reason, ready.Message = "MonitorNotRunning", "the monitor, which runs and watches containers, cannot be reached and is being started again: see the daemon's log, and monitor.log below "+s.config.State
	}
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := s.config.Network.Status(ctx); err != nil {
		network.Status = false
		network.Reason, network.Message = "NetworkPluginNotReady", err.Error()
	}
	response := &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{ready, network}},
		RuntimeHandlers: s.runtimeHandlers(),
		Features: &runtimeapi.RuntimeFeatures{
			SupplementalGroupsPolicy:  true,
			MountOptions:              true,
			UserNamespacesHostNetwork: s.config.UserNamespaces,
		},
	}
	if r.GetVerbose() {
		info, err := s.statusInfo()
		if err != nil {
			return nil, err
		}
		response.Info = info
	}
	return response, nil
}

// runtimeHandlers lists every handler by its name, and the default one once
// more under the empty name that requests select it by.
func (s *Server) runtimeHandlers() []*runtimeapi.RuntimeHandler {
	handlers := []*runtimeapi.RuntimeHandler{s.runtimeHandler("", s.config.Handlers[s.config.DefaultHandler])}
	for _, name := range slices.Sorted(maps.Keys(s.config.Handlers)) {
		handlers = append(handlers, s.runtimeHandler(name, s.config.Handlers[name]))
	}
	return handlers
}

func (s *Server) runtimeHandler(name string, r *oci.Runtime) *runtimeapi.RuntimeHandler {
	return &runtimeapi.RuntimeHandler{
		Name: name,
		Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: r.Features().RecursiveReadOnly && s.host.recursiveReadOnly,
			UserNamespaces:          s.userNamespaces(r),
		},
	}
}

func (s *Server) statusInfo() (map[string]string, error) {
	handlers := map[string]any{}
	for name, r := range s.config.Handlers {
		handlers[name] = map[string]any{"path": r.Path(), "features": r.Features()}
	}
	config, err := json.Marshal(map[string]any{
		"rootDir":        s.config.Root,
		"stateDir":       s.config.State,
		"defaultHandler": s.config.DefaultHandler,
		"handlers":       handlers,
		"cgroupDriver":   s.cgroupDriver().String(),
		"cgroupV2":       s.config.Cgroups.Unified(),
		"monitorPID":     s.config.MonitorPID(),
		"oomScoreFloor":  s.host.oomScoreFloor,
	})
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	golang, err := json.Marshal(goruntime.Version())
	if err != nil {
		return nil, fmt.Errorf("encode version: %w", err)
	}
	cni, err := json.Marshal(s.config.Network.Info())
	if err != nil {
		return nil, fmt.Errorf("encode network configuration: %w", err)
	}
	return map[string]string{"config": string(config), "golang": string(golang), "cniconfig": string(cni)}, nil
}

// RuntimeConfig tells kubelet which cgroup driver to use.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: s.cgroupDriver()},
	}, nil
}

func (s *Server) cgroupDriver() runtimeapi.CgroupDriver {
	if s.config.SystemdCgroup {
		return runtimeapi.CgroupDriver_SYSTEMD
	}
	return runtimeapi.CgroupDriver_CGROUPFS
}

// UpdateRuntimeConfig takes the node's pod CIDRs, one or one of each family with
// a comma between them. A request without any changes nothing.
func (s *Server) UpdateRuntimeConfig(_ context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	text := r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if text == "" {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	}
	var cidrs []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		cidr, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("runtime_config.network_config.pod_cidr: %q is no CIDR: %w", part, errdefs.ErrInvalidArgument)
		}
		cidrs = append(cidrs, cidr)
	}
	if err := s.config.Network.SetPodCIDRs(cidrs); err != nil {
		return nil, fmt.Errorf("runtime_config.network_config: %w", err)
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
