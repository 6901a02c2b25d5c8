package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// claims are the ports of the machine that containers which are being started are
// about to have. Publishing is done by rules that go before any program's socket,
// and the first rule wins: nothing else keeps two from one port.
type claims struct {
	mu    sync.Mutex
	byPod map[string][]network.PortMapping
}

// claimPorts takes ports for a pod that has no network yet. Nobody else gets them
// until release, when the pod has them.
func (s *Server) claimPorts(ctx context.Context, podID string, wanted []network.PortMapping) (release func(), err error) {
	s.ports.mu.Lock()
	defer s.ports.mu.Unlock()
	for _, w := range wanted {
		if w.HostPort == 0 {
			continue
		}
		for _, sb := range s.config.Sandboxes.List() {
			st := sb.Status()
			if st.ID != podID && len(st.IPs) > 0 && clash(w, st.Params.PortMappings) {
				return nil, refused("port %s is published by %s already: stop it, or choose another port", hostPortName(w), s.podTitle(st.ID, st.Params.Name))
			}
		}
		for other, has := range s.ports.byPod {
			if other != podID && clash(w, has) {
				return nil, refused("port %s is published by another container that is being started: choose another port", hostPortName(w))
			}
		}
		if listenedOn(ctx, w) {
			return nil, refused("port %s is in use: another program of this machine listens on it", hostPortName(w))
		}
	}
	if s.ports.byPod == nil {
		s.ports.byPod = map[string][]network.PortMapping{}
	}
	s.ports.byPod[podID] = wanted
	return func() {
		s.ports.mu.Lock()
		defer s.ports.mu.Unlock()
		delete(s.ports.byPod, podID)
	}, nil
}

// renew makes a container anew that has exited, with its pod, whose network may
// have been given back.
func (s *Server) renew(ctx context.Context, e *entry) error {
	podID := e.record().PodID
	var wanted []network.PortMapping
	if sb, err := s.config.Sandboxes.Get(podID); err == nil && len(sb.Status().IPs) == 0 && !sb.Status().Params.HostNetwork {
		wanted = sb.Status().Params.PortMappings
	}
	release, err := s.claimPorts(ctx, podID, wanted)
	if err != nil {
		return err
	}
	defer release()
	return inWords(s.config.CRI.RenewContainer(ctx, e.id))
}

// podTitle says whose a pod is.
func (s *Server) podTitle(id, name string) string {
	if own := s.inPod(id, ""); len(own) > 0 {
		return "container " + own[0].name()
	}
	return "pod " + name
}

// clash reports whether a port is among others.
func clash(w network.PortMapping, others []network.PortMapping) bool {
	for _, o := range others {
		if o.HostPort == w.HostPort && portProtocol(o) == portProtocol(w) && meet(o.HostIP, w.HostIP) {
			return true
		}
	}
	return false
}

// meet reports whether two addresses of the machine have one in common. None is
// all of both families.
func meet(a, b string) bool {
	if a == "" || b == "" || a == b {
		return true
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX != nil || errY != nil || x.Is4() != y.Is4() {
		return false
	}
	return x == y || x.IsUnspecified() || y.IsUnspecified()
}

// listenedOn reports whether a program has a socket where the port would be.
func listenedOn(ctx context.Context, p network.PortMapping) bool {
	var config net.ListenConfig
	address := net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort)))
	var socket interface{ Close() error }
	var err error
	switch portProtocol(p) {
	case "tcp":
		socket, err = config.Listen(ctx, "tcp", address)
	case "udp":
		socket, err = config.ListenPacket(ctx, "udp", address)
	default:
		return false
	}
	if err != nil {
		// Others, such as of an address that the machine does not have yet, are no
		// reason to refuse.
		return errors.Is(err, unix.EADDRINUSE)
	}
	_ = socket.Close() // nothing was sent
	return false
}

func portProtocol(p network.PortMapping) string {
	if p.Protocol == "" {
		return "tcp"
	}
	return p.Protocol
}

func hostPortName(p network.PortMapping) string {
	if p.HostIP == "" {
		return fmt.Sprintf("%d/%s", p.HostPort, portProtocol(p))
	}
	return net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort))) + "/" + portProtocol(p)
}

// portMappings are the ports that a pod is to publish.
func portMappings(config *runtimeapi.PodSandboxConfig) []network.PortMapping {
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		return nil // its programs listen themselves
	}
	var all []network.PortMapping
	for _, p := range config.GetPortMappings() {
		all = append(all, network.PortMapping{
			HostIP: p.GetHostIp(), HostPort: p.GetHostPort(), ContainerPort: p.GetContainerPort(), Protocol: protocol(p.GetProtocol()),
		})
	}
	return all
}
