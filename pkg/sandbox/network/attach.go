package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
)

// Attachment is one pod's place in the network.
type Attachment struct {
	ID        string `json:"id"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
	// NetNS is the path of the pod's network namespace.
	NetNS string `json:"netns"`
	// PortMappings with HostPort 0 ask for nothing and are left out.
	PortMappings []PortMapping `json:"portMappings,omitempty"`
}

// PortMapping makes a port of the pod reachable through the host.
type PortMapping struct {
	// HostIP limits the mapping to one address of the host; "" means all.
	HostIP        string `json:"hostIP,omitempty"`
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	// Protocol is tcp, udp or sctp.
	Protocol string `json:"protocol"`
}

// Result is what the network gave to a pod.
type Result struct {
	// IPs are the pod's addresses in the order of the CNI result.
	IPs []netip.Addr
	// Interfaces are all that the plugins made, on the host and in the pod.
	Interfaces []Interface
	// Raw is the CNI result, version 1.1.0.
	Raw json.RawMessage
}

// Interface is one network interface of a CNI result.
type Interface struct {
	Name, MAC string
	// Sandbox is the pod's network namespace, "" for an interface of the host.
	Sandbox string
}

// Attach connects a pod. It is the caller's business to bring lo up; see
// LoopbackUp. On an error nothing is left, or else an intent that Detach and GC
// find; what an earlier attempt with the same id left is undone first.
func (n *Network) Attach(ctx context.Context, a Attachment) (Result, error) {
	a, err := a.normalize()
	if err != nil {
		return Result{}, err
	}
	c, err := n.usableConf()
	if err != nil {
		return Result{}, err
	}
	unlock, err := n.ids.lock(ctx, a.ID)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if _, err := n.loadIntent(a.ID); !errors.Is(err, fs.ErrNotExist) {
		if err := n.detach(ctx, detachment{id: a.ID, netns: a.NetNS}); err != nil {
			return Result{}, fmt.Errorf("undo earlier attachment: %w", err)
		}
	}

	n.setLive(a.ID, true)
	rec := intent{Attachment: a, File: c.file, Conf: c.list.Bytes, InProcess: n.cfg.InProcess}
	if err := n.saveIntent(rec); err != nil {
		n.setLive(a.ID, false)
		return Result{}, fmt.Errorf("record network intent: %w", err)
	}
	result, err := n.add(ctx, c.list, &rec)
	if err == nil {
		n.setMapped(a.ID, len(a.PortMappings) > 0)
		return result, nil
	}
	// From here on GC may take care of it.
	n.setLive(a.ID, false)
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if delErr := n.detach(cleanup, detachment{id: a.ID, netns: a.NetNS}); delErr != nil {
		err = errors.Join(err, fmt.Errorf("undo: %w", delErr))
	}
	return Result{}, fmt.Errorf("attach to network %q (of %s): %w", c.list.Name, c.where(), err)
}

// add runs ADD of all plugins.
func (n *Network) add(ctx context.Context, list *libcni.NetworkConfigList, rec *intent) (Result, error) {
	op := &operation{n: n, id: rec.Attachment.ID, rec: rec, inProcess: n.cfg.InProcess}
	cni := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, n.cfg.CacheDir, op)
	res, err := cni.AddNetworkList(ctx, list, rec.runtimeConf(rec.Attachment.NetNS))
	if err == nil && op.lock != nil {
		// A process that a plugin leaves behind after success is meant to stay.
		err = removeFile(n.lockPath(op.id))
	}
	if err := errors.Join(err, op.close()); err != nil {
		return Result{}, err
	}
	return newResult(res)
}

func newResult(res types.Result) (Result, error) {
	if res == nil {
		return Result{}, errors.New("the CNI plugins returned no result")
	}
	r, err := current.NewResultFromResult(res)
	if err != nil {
		return Result{}, fmt.Errorf("convert CNI result: %w", err)
	}
	out := Result{}
	for _, i := range r.Interfaces {
		out.Interfaces = append(out.Interfaces, Interface{Name: i.Name, MAC: i.Mac, Sandbox: i.Sandbox})
	}
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i].Sandbox == "" {
			continue // an address of the host
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return Result{}, fmt.Errorf("the CNI result has a bad address %v", ip.Address.IP)
		}
		out.IPs = append(out.IPs, addr.Unmap())
	}
	if len(out.IPs) == 0 {
		return Result{}, errors.New("the CNI result has no address for the pod")
	}
	out.Raw, err = json.Marshal(r)
	if err != nil {
		return Result{}, fmt.Errorf("encode CNI result: %w", err)
	}
	return out, nil
}

// runtimeConf is the attachment in libcni's terms.
func (rec *intent) runtimeConf(netns string) *libcni.RuntimeConf {
	a := &rec.Attachment
	rt := &libcni.RuntimeConf{
		ContainerID: a.ID,
		NetNS:       netns,
		IfName:      IfName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", a.Namespace},
			{"K8S_POD_NAME", a.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", a.ID},
			{"K8S_POD_UID", a.UID},
		},
	}
	if len(a.PortMappings) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": a.PortMappings}
	}
	return rt
}

// usableConf returns the network of now, or why there is none.
func (n *Network) usableConf() (*conf, error) {
	s := n.state.Load()
	if s.conf == nil {
		// It may have appeared this instant, or there is no inotify.
		n.reload()
		s = n.state.Load()
	}
	if s.conf == nil {
		return nil, fmt.Errorf("network is not ready: %w: %w", s.reason, errdefs.ErrUnavailable)
	}
	return s.conf, nil
}

// normalize checks an attachment and drops port mappings that ask for nothing.
func (a Attachment) normalize() (Attachment, error) {
	if err := validateID(a.ID); err != nil {
		return a, err
	}
	if a.NetNS == "" {
		return a, fmt.Errorf("attach %s: no network namespace: %w", a.ID, errdefs.ErrInvalidArgument)
	}
	// CNI_ARGS has no quoting: a separator in a value would smuggle in
	// arguments, for example IP=.
	for key, value := range map[string]string{"namespace": a.Namespace, "name": a.Name, "uid": a.UID} {
		if strings.ContainsAny(value, ";=\x00\n") {
			return a, fmt.Errorf("pod %s %q has a character that CNI cannot pass on: %w", key, value, errdefs.ErrInvalidArgument)
		}
	}
	var mappings []PortMapping
	for _, m := range a.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		m.Protocol = strings.ToLower(m.Protocol)
		if m.Protocol == "" {
			m.Protocol = "tcp"
		}
		if err := m.validate(); err != nil {
			return a, fmt.Errorf("port mapping: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		mappings = append(mappings, m)
	}
	a.PortMappings = mappings
	return a, nil
}

func (m PortMapping) validate() error {
	if m.HostPort < 1 || m.HostPort > 65535 {
		return fmt.Errorf("host port %d is not in 1-65535", m.HostPort)
	}
	if m.ContainerPort < 1 || m.ContainerPort > 65535 {
		return fmt.Errorf("container port %d is not in 1-65535", m.ContainerPort)
	}
	switch m.Protocol {
	case "tcp", "udp", "sctp":
	default:
		return fmt.Errorf("protocol %q is not tcp, udp or sctp", m.Protocol)
	}
	if m.HostIP != "" {
		if addr, err := netip.ParseAddr(m.HostIP); err != nil || addr.Zone() != "" {
			return fmt.Errorf("host IP %q is not an address", m.HostIP)
		}
	}
	return nil
}

// validateID keeps an id from leaving the intents' directory.
func validateID(id string) error {
	if err := utils.ValidateContainerID(id); err != nil {
		return fmt.Errorf("id %q: %w: %w", id, err, errdefs.ErrInvalidArgument)
	}
	return nil
}
