package containers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// PortSpec is a port of a container, published where HostFirst is not 0 or Any is
// set.
type PortSpec struct {
	Protocol  runtimeapi.Protocol
	HostIP    string
	Container uint16
	// HostFirst to HostLast are the ports of the machine it may get.
	HostFirst, HostLast uint16
	// Any: it may get any free one.
	Any bool
}

// ParsePorts reads [IP:][HOST[-HOST]:]PORT[-PORT][/PROTOCOL], as -p has it.
func ParsePorts(s string) ([]PortSpec, error) {
	wrong := func(why string) error {
		return fmt.Errorf("invalid port %q: %s; it is [IP:][HOST_PORT:]PORT[/tcp|udp|sctp]", s, why)
	}
	rest, protocolName, hasProtocol := strings.Cut(s, "/")
	protocol, err := parseProtocol(protocolName, hasProtocol)
	if err != nil {
		return nil, wrong(err.Error())
	}
	// The last part is the container's, the one before it the machine's.
	var ip, host, container string
	switch i := strings.LastIndex(rest, ":"); {
	case i < 0:
		container = rest
	default:
		container, rest = rest[i+1:], rest[:i]
		if i := strings.LastIndex(rest, ":"); i >= 0 {
			ip, host = rest[:i], rest[i+1:]
		} else {
			host = rest
		}
	}
	ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
	if ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, wrong(fmt.Sprintf("%q is no address", ip))
		}
	}
	first, last, err := parsePortRange(container)
	if err != nil {
		return nil, wrong(err.Error())
	}
	spec := PortSpec{Protocol: protocol, HostIP: ip, Any: host == ""}
	if !spec.Any {
		if spec.HostFirst, spec.HostLast, err = parsePortRange(host); err != nil {
			return nil, wrong(err.Error())
		}
	}
	if spec.HostLast-spec.HostFirst != last-first && first != last && !spec.Any {
		return nil, wrong("the two ranges differ in length")
	}
	var ports []PortSpec
	for p := int(first); p <= int(last); p++ {
		one := spec
		one.Container = uint16(p)
		if first != last && !spec.Any {
			one.HostFirst = spec.HostFirst + uint16(p) - first
			one.HostLast = one.HostFirst
		}
		ports = append(ports, one)
	}
	return ports, nil
}

// ParseExposed reads PORT[-PORT][/PROTOCOL], as EXPOSE and --expose have it.
func ParseExposed(s string) ([]PortSpec, error) {
	ports, protocolName, hasProtocol := strings.Cut(s, "/")
	protocol, err := parseProtocol(protocolName, hasProtocol)
	if err != nil {
		return nil, fmt.Errorf("invalid port %q: %w", s, err)
	}
	first, last, err := parsePortRange(ports)
	if err != nil {
		return nil, fmt.Errorf("invalid port %q: %w", s, err)
	}
	var all []PortSpec
	for p := int(first); p <= int(last); p++ {
		all = append(all, PortSpec{Protocol: protocol, Container: uint16(p)})
	}
	return all, nil
}

func parseProtocol(name string, given bool) (runtimeapi.Protocol, error) {
	switch strings.ToLower(name) {
	case "tcp":
		return runtimeapi.Protocol_TCP, nil
	case "udp":
		return runtimeapi.Protocol_UDP, nil
	case "sctp":
		return runtimeapi.Protocol_SCTP, nil
	}
	if given {
		return 0, fmt.Errorf("%q is no protocol", name)
	}
	return runtimeapi.Protocol_TCP, nil
}

func parsePortRange(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err := strconv.ParseUint(from, 10, 16)
	if err != nil || a == 0 {
		return 0, 0, fmt.Errorf("%q is no port", from)
	}
	b, err := strconv.ParseUint(to, 10, 16)
	if err != nil || b == 0 {
		return 0, 0, fmt.Errorf("%q is no port", to)
	}
	if b < a {
		return 0, 0, fmt.Errorf("the range %q ends before it begins", s)
	}
	return uint16(a), uint16(b), nil
}

// Ports chooses free ports of the machine, and keeps them from others until Close,
// which comes before the daemon is asked for them.
type Ports struct {
	// Published are those of containers, where no program listens.
	Published func() []*nodev1.Port

	open []io.Closer
}

// PublishedBy returns the ports that a node's containers publish.
func PublishedBy(ctx context.Context, n *client.Node) func() []*nodev1.Port {
	return func() []*nodev1.Port {
		answer, err := n.Containers.List(ctx, &nodev1.ListRequest{})
		if err != nil {
			return nil // the daemon refuses what is taken
		}
		var all []*nodev1.Port
		for _, c := range answer.GetContainers() {
			if c.GetState() != "exited" {
				all = append(all, c.GetPorts()...)
			}
		}
		return all
	}
}

// attempts at any free port.
const attempts = 100

// Free finds a port that nobody has, from first to last, or any.
func (p *Ports) Free(protocol, ip string, first, last uint16) (uint16, error) {
	var published []*nodev1.Port
	if p.Published != nil {
		published = p.Published()
	}
	var err error
	for i := 0; first == 0 && i < attempts || first > 0 && int(first)+i <= int(last); i++ {
		candidate := int(first) + i
		if first == 0 {
			candidate = 0
		}
		port, listenErr := p.listen(protocol, net.ParseIP(ip), candidate)
		if listenErr != nil {
			err = listenErr
			continue
		}
		if !isPublished(published, protocol, port) {
			return port, nil
		}
		err = fmt.Errorf("port %d/%s is published by a container", port, protocol)
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// isPublished reports whether a port is among those of containers, on whatever
// address.
func isPublished(published []*nodev1.Port, protocol string, port uint16) bool {
	return slices.ContainsFunc(published, func(o *nodev1.Port) bool {
		return o.GetHostPort() == uint32(port) && protocolName(o) == protocol
	})
}

func (p *Ports) listen(protocol string, ip net.IP, port int) (uint16, error) {
	if protocol == "udp" {
		l, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: port})
		if err != nil {
			return 0, err
		}
		p.open = append(p.open, l)
		return portOf(l.LocalAddr())
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port})
	if err != nil {
		return 0, err
	}
	p.open = append(p.open, l)
	return portOf(l.Addr())
}

func portOf(a net.Addr) (uint16, error) {
	address, err := netip.ParseAddrPort(a.String())
	return address.Port(), err
}

// Close lets go of the ports.
func (p *Ports) Close() {
	for _, l := range p.open {
		_ = l.Close() // nobody wrote to it
	}
	p.open = nil
}
