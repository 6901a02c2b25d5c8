package containers

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func (o *Options) namespaces(r *nodev1.CreateRequest, _ Machine) error {
	// As with docker each container has processes of its own.
	n := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	switch o.PID {
	case "", "private":
	case "host":
		n.Pid = runtimeapi.NamespaceMode_NODE
	case "pod":
		n.Pid = runtimeapi.NamespaceMode_POD
	default:
		return fmt.Errorf("--pid: invalid PID mode %q: it can be private or host", o.PID)
	}
	switch o.IPC {
	case "", "private", "shareable", "pod":
	case "host":
		n.Ipc = runtimeapi.NamespaceMode_NODE
	default:
		return fmt.Errorf("--ipc: invalid IPC mode %q: it can be private or host", o.IPC)
	}
	host := slices.Contains(o.Networks, "host")
	if host {
		n.Network = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case o.UTS == "", o.UTS == "private" && !host, o.UTS == "host" && host:
	case o.UTS == "host":
		return errors.New("--uts host needs --network host: both namespaces are the pod's or the machine's")
	default:
		return fmt.Errorf("--uts: invalid UTS mode %q: it can be private, or host with --network host", o.UTS)
	}
	users, err := parseUserns(o.Userns)
	if err != nil {
		return err
	}
	n.UsernsOptions = users
	r.Pod.Linux.SecurityContext.NamespaceOptions = n
	r.Container.Linux.SecurityContext.NamespaceOptions = n
	return nil
}

// maxID is the largest id that can be mapped.
const maxID = 1<<32 - 2

// parseUserns reads --userns: host, auto (the daemon chooses ids that no other
// container has), or CONTAINER:HOST:LENGTH.
func parseUserns(s string) (*runtimeapi.UserNamespace, error) {
	switch s {
	case "", "host":
		return nil, nil //nolint:nilnil // the machine's
	case "auto", "private", "pod":
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}, nil
	}
	parts := strings.Split(s, ":")
	var ids []uint32
	for _, p := range parts {
		id, err := strconv.ParseUint(p, 10, 32)
		if err != nil || id > maxID {
			break
		}
		ids = append(ids, uint32(id))
	}
	if len(parts) != 3 || len(ids) != 3 || ids[2] == 0 {
		return nil, fmt.Errorf("--userns: invalid USER mode %q: it can be host, auto, or CONTAINER:HOST:LENGTH such as 0:100000:65536", s)
	}
	mapping := []*runtimeapi.IDMapping{{ContainerId: ids[0], HostId: ids[1], Length: ids[2]}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: mapping, Gids: mapping}, nil
}

func (o *Options) network(r *nodev1.CreateRequest, _ Machine) error {
	exclusive, named := "", 0
	for _, name := range o.Networks {
		other, joins := strings.CutPrefix(name, "container:")
		switch {
		case name == "", name == "pod", name == "bridge", name == "default", name == "private":
		case name == "host":
			exclusive = name
		case name == "none":
			exclusive, r.NoNetwork = name, true
		case joins:
			if other == "" {
				return errors.New("--network container: needs a container's name or id after the colon")
			}
			exclusive, r.Join = "container", other
		case strings.ContainsAny(name, ":/ "):
			return fmt.Errorf("invalid --network %q: it can be pod, host, none, container:NAME or a name", name)
		default:
			named++
			r.Networks = append(r.Networks, &nodev1.NetworkMembership{Network: name, Aliases: o.NetworkAliases})
		}
	}
	if exclusive != "" && len(o.Networks) > 1 {
		return fmt.Errorf("conflicting options: --network %s goes with no other network", exclusive)
	}
	if len(o.NetworkAliases) > 0 && named == 0 {
		return errors.New("--network-alias is for named networks: give --network NAME as well")
	}
	if err := o.joinConflicts(r); err != nil {
		return err
	}
	if err := o.hostname(r, exclusive); err != nil {
		return err
	}
	return o.dns(r)
}

// joinConflicts refuses what belongs to the pod of another container.
func (o *Options) joinConflicts(r *nodev1.CreateRequest) error {
	if r.GetJoin() == "" {
		return nil
	}
	for _, c := range []struct {
		what  string
		given bool
	}{
		{"hostname", o.Hostname != ""},
		{"dns", len(o.DNS)+len(o.DNSSearch)+len(o.DNSOptions) > 0},
		{"custom host-to-IP mapping", len(o.AddHost) > 0},
		{"port publishing", len(o.Publish) > 0 || o.PublishAll},
		{"port exposing", len(o.Expose) > 0},
		{"sysctl", len(o.Sysctls) > 0},
		{"shm size", o.ShmSize != ""},
		{"user namespace", o.Userns != ""},
	} {
		if c.given {
			return fmt.Errorf("conflicting options: %s and the container type network mode", c.what)
		}
	}
	return nil
}

func (o *Options) hostname(r *nodev1.CreateRequest, mode string) error {
	if o.Hostname == "" {
		return nil
	}
	if mode == "host" {
		return errors.New("conflicting options: hostname and the network mode: the machine has one already")
	}
	name := o.Hostname
	if o.Domainname != "" {
		name += "." + o.Domainname
	}
	if len(name) > 64 || strings.ContainsAny(name, "/ \t\n") {
		return fmt.Errorf("invalid hostname %q: it is at most 64 letters, digits, dots and dashes", name)
	}
	r.Pod.Hostname = name
	return nil
}

func (o *Options) dns(r *nodev1.CreateRequest) error {
	for _, s := range o.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("invalid --dns %q: it is an address", s)
		}
	}
	if len(o.DNS)+len(o.DNSSearch)+len(o.DNSOptions) > 0 {
		search := o.DNSSearch
		if slices.Equal(search, []string{"."}) { // docker's word for none
			search = nil
		}
		r.Pod.DnsConfig = &runtimeapi.DNSConfig{Servers: o.DNS, Searches: search, Options: o.DNSOptions}
	}
	for _, s := range o.AddHost {
		line, err := ParseExtraHost(s)
		if err != nil {
			return err
		}
		r.ExtraHosts = append(r.ExtraHosts, line)
	}
	return nil
}

func (o *Options) ports(r *nodev1.CreateRequest, m Machine) error {
	var all []PortSpec
	for _, s := range o.Publish {
		ports, err := ParsePorts(s)
		if err != nil {
			return err
		}
		all = append(all, ports...)
	}
	if r.GetPod().GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE || r.GetNoNetwork() {
		all = nil
	}
	for _, s := range o.Expose {
		ports, err := ParseExposed(s)
		if err != nil {
			return err
		}
		if o.PublishAll {
			for i := range ports {
				ports[i].Any = true
			}
		}
		all = append(all, ports...)
	}
	return Publish(r, m, all)
}

// Publish adds ports to a request, unless they are published already.
func Publish(r *nodev1.CreateRequest, m Machine, ports []PortSpec) error {
	for _, p := range ports {
		isSame := func(other *runtimeapi.PortMapping) bool {
			return other.GetContainerPort() == int32(p.Container) && other.GetProtocol() == p.Protocol
		}
		mapping := &runtimeapi.PortMapping{Protocol: p.Protocol, ContainerPort: int32(p.Container), HostIp: p.HostIP}
		switch {
		case !p.Any && p.HostFirst == 0: // exposed only
			if slices.ContainsFunc(r.GetPod().GetPortMappings(), isSame) {
				continue
			}
		case p.Any || p.HostFirst != p.HostLast:
			port, err := m.FreePort(strings.ToLower(p.Protocol.String()), p.HostIP, p.HostFirst, p.HostLast)
			if err != nil {
				return err
			}
			mapping.HostPort = int32(port)
		default:
			mapping.HostPort = int32(p.HostFirst)
		}
		r.Pod.PortMappings = append(r.Pod.PortMappings, mapping)
	}
	return nil
}
