package containers

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// Ports keeps ports of the machine from others until Close: those that were
// chosen for a container that does not have them yet.
type Ports struct{ open []io.Closer }

// Free finds a port that nobody listens on, from first to last, or any.
func (p *Ports) Free(protocol, ip string, first, last uint16) (uint16, error) {
	for candidate := int(first); ; candidate++ {
		port, err := p.listen(protocol, net.ParseIP(ip), candidate)
		if err == nil {
			return port, nil
		}
		if candidate >= int(last) {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
	}
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
