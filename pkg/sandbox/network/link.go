package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podInterface is the index of the pod's interface in a bridge result.
const podInterface = 2

// setGateways completes what host-local returned as the bridge plugin does and
// returns the addresses the bridge has to have.
func setGateways(r *current.Result, conf *bridgeConf) []*net.IPNet {
	var gateways []*net.IPNet
	for _, p := range r.IPs {
		p.Interface = current.Int(podInterface)
		if !conf.IsGateway {
			continue
		}
		if p.Gateway == nil {
			p.Gateway = ip.NextIP(p.Address.IP.Mask(p.Address.Mask))
		}
		if conf.IsDefaultGateway {
			setDefaultRoute(r, p)
		}
		gateways = append(gateways, &net.IPNet{IP: p.Gateway, Mask: p.Address.Mask})
	}
	return gateways
}

func setDefaultRoute(r *current.Result, p *current.IPConfig) {
	zero := net.IPv6zero
	if p.Address.IP.To4() != nil {
		zero = net.IPv4zero
	}
	dst := net.IPNet{IP: zero, Mask: net.IPMask(zero)}
	for _, route := range r.Routes {
		if route.GW != nil && route.Dst.String() == dst.String() {
			return
		}
	}
	r.Routes = append(r.Routes, &types.Route{Dst: dst, GW: p.Gateway})
}

// ensureBridge makes the bridge and its addresses where they are missing.
func ensureBridge(h netlinksafe.Handle, conf *bridgeConf, gateways []*net.IPNet) (netlink.Link, error) {
	br, err := findBridge(h, conf.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = conf.Bridge, conf.MTU
		// Another pod may be faster.
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("add bridge %s: %w", conf.Bridge, err)
		}
		br, err = findBridge(h, conf.Bridge)
	}
	if err != nil {
		return nil, err
	}
	if br.Attrs().Flags&net.FlagUp == 0 {
		if err := setSysctl("ipv6/conf/"+conf.Bridge+"/accept_ra", "0"); err != nil {
			return nil, err
		}
		if err := h.LinkSetUp(br); err != nil {
			return nil, fmt.Errorf("bring up bridge %s: %w", conf.Bridge, err)
		}
	}
	if len(gateways) == 0 {
		return br, nil
	}
	addrs, err := h.AddrList(br, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses of bridge %s: %w", conf.Bridge, err)
	}
	for _, gw := range gateways {
		if err := ensureAddress(h, br, addrs, gw, conf.ForceAddress); err != nil {
			return nil, err
		}
		if err := enableForwarding(gw.IP); err != nil {
			return nil, err
		}
	}
	return br, nil
}

func findBridge(h netlinksafe.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", name, err)
	}
	if _, ok := link.(*netlink.Bridge); !ok {
		return nil, fmt.Errorf("interface %s is a %s, not a bridge", name, link.Type())
	}
	return link, nil
}

// ensureAddress adds gw to the bridge unless addrs, which it has, include it.
func ensureAddress(h netlinksafe.Handle, br netlink.Link, addrs []netlink.Addr, gw *net.IPNet, force bool) error {
	for _, a := range addrs {
		if a.IPNet.String() == gw.String() {
			return nil
		}
	}
	v4 := gw.IP.To4() != nil
	for _, a := range addrs {
		// Further IPv6 networks may share the bridge, others may not.
		if (a.IP.To4() != nil) != v4 || (!v4 && !a.Contains(gw.IP) && !gw.Contains(a.IP)) {
			continue
		}
		if !force {
			return fmt.Errorf("bridge %s already has address %s, which is not %s", br.Attrs().Name, a.IPNet, gw)
		}
		if err := h.AddrDel(br, &netlink.Addr{IPNet: a.IPNet}); err != nil {
			return fmt.Errorf("remove address %s of bridge %s: %w", a.IPNet, br.Attrs().Name, err)
		}
	}
	err := h.AddrAdd(br, newAddr(gw))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s to bridge %s: %w", gw, br.Attrs().Name, err)
	}
	// Pinned, or the bridge would take the lowest of its ports' and change as
	// pods come and go.
	if err := h.LinkSetHardwareAddr(br, br.Attrs().HardwareAddr); err != nil {
		return fmt.Errorf("pin hardware address of bridge %s: %w", br.Attrs().Name, err)
	}
	return nil
}

// newAddr skips duplicate address detection: an IPv6 address could not be used
// for up to two seconds, and what host-local reserved is unique.
func newAddr(n *net.IPNet) *netlink.Addr {
	a := &netlink.Addr{IPNet: n}
	if n.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// vethPair is what connects a pod to the bridge.
type vethPair struct {
	conf    *bridgeConf
	bridge  netlink.Link
	netns   ns.NetNS
	podName string
}

// add makes the pair with the pod's end directly in its namespace and returns
// the host's end. Hardware addresses are set, because udev may otherwise
// replace the kernel's random ones at any time later.
func (p *vethPair) add(h netlinksafe.Handle) (*netlink.Veth, error) {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.MTU = p.conf.MTU
	veth.Flags = net.FlagUp
	veth.PeerName = p.podName
	veth.PeerNamespace = netlink.NsFd(int(p.netns.Fd()))
	reaped := false
	for range 10 {
		var err error
		if veth.Name, err = ip.RandomVethName(); err != nil {
			return nil, err
		}
		veth.HardwareAddr, veth.PeerHardwareAddr = randomMAC(), randomMAC()
		err = h.LinkAdd(veth)
		if err == nil {
			return veth, p.connect(h, veth)
		}
		if !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("add interface pair: %w", err)
		}
		if _, findErr := h.LinkByName(veth.Name); findErr == nil {
			continue
		}
		// Not our random name is taken, but the pod's: perhaps by a pair that
		// was retired and whose namespace lives on.
		if reaped {
			return nil, fmt.Errorf("interface %s already exists in %s: %w", p.podName, p.netns.Path(), err)
		}
		if err := reap(); err != nil {
			return nil, err
		}
		reaped = true
	}
	return nil, errors.New("find an unused interface name")
}

// connect makes the host's end a port of the bridge. On an error the pair is
// removed.
func (p *vethPair) connect(h netlinksafe.Handle, veth *netlink.Veth) error {
	err := setSysctl("ipv6/conf/"+veth.Name+"/accept_ra", "0")
	if err == nil {
		err = h.LinkSetMaster(veth, p.bridge)
	}
	if err == nil && p.conf.HairpinMode {
		err = h.LinkSetHairpin(veth, true)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("connect %s to bridge %s: %w", veth.Name, p.bridge.Attrs().Name, err), h.LinkDel(veth))
	}
	return nil
}

func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	// Read never fails; see crypto/rand.
	_, _ = rand.Read(mac)
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// configurePod gives the pod's interface its addresses and routes.
func configurePod(netns ns.NetNS, name string, r *current.Result) error {
	return netns.Do(func(ns.NetNS) error {
		h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket in the pod: %w", err)
		}
		defer h.Close()
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s in the pod: %w", name, err)
		}
		if err := setPodSysctls(name, r); err != nil {
			return err
		}
		var gw4, gw6 net.IP
		for _, p := range r.IPs {
			if err := h.AddrAdd(link, newAddr(&p.Address)); err != nil {
				return fmt.Errorf("add address %s to %s: %w", &p.Address, name, err)
			}
			if p.Gateway.To4() != nil && gw4 == nil {
				gw4 = p.Gateway
			} else if p.Gateway.To4() == nil && gw6 == nil {
				gw6 = p.Gateway
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		for _, route := range r.Routes {
			gw := gw6
			if route.Dst.IP.To4() != nil {
				gw = gw4
			}
			if err := addRoute(h, link, route, gw); err != nil {
				return err
			}
		}
		return nil
	})
}

// setPodSysctls does what the plugin does, and has the kernel ignore router
// advertisements: another pod could send them (CVE-2020-10749).
func setPodSysctls(name string, r *current.Result) error {
	err := errors.Join(
		setSysctl("ipv4/conf/"+name+"/arp_notify", "1"),
		setSysctl("ipv6/conf/"+name+"/accept_dad", "0"),
		setSysctl("ipv6/conf/"+name+"/accept_ra", "0"),
	)
	for _, p := range r.IPs {
		if p.Address.IP.To4() == nil {
			return errors.Join(err,
				ensureSysctl("ipv6/conf/lo/disable_ipv6", "0"),
				ensureSysctl("ipv6/conf/"+name+"/disable_ipv6", "0"),
				setSysctl("ipv6/conf/"+name+"/keep_addr_on_down", "1"))
		}
	}
	return err
}

func addRoute(h netlinksafe.Handle, link netlink.Link, route *types.Route, gw net.IP) error {
	if route.GW != nil {
		gw = route.GW
	}
	r := &netlink.Route{Dst: &route.Dst, LinkIndex: link.Attrs().Index, Gw: gw, Priority: route.Priority}
	if route.Table != nil {
		r.Table = *route.Table
	}
	if route.Scope != nil {
		r.Scope = netlink.Scope(*route.Scope)
	}
	if err := h.RouteAddEcmp(r); err != nil {
		return fmt.Errorf("add route to %s via %s: %w", &route.Dst, gw, err)
	}
	return nil
}

// deleteLinks removes the pair of interfaces, or retires it where that is
// enough. It returns the addresses that it found on the pod's end.
func (c *call) deleteLinks(prev *current.Result) ([]*net.IPNet, error) {
	if prev != nil && c.op.mayRetire {
		if done, err := retire(prev); done || err != nil {
			c.op.n.reaper.retired()
			return nil, err
		}
	}
	if c.netns != "" {
		var addrs []*net.IPNet
		err := ns.WithNetNSPath(c.netns, func(ns.NetNS) (err error) {
			addrs, err = ip.DelLinkByNameAddr(c.ifname)
			return err
		})
		switch {
		case err == nil || errors.Is(err, ip.ErrLinkNotFound):
			return addrs, nil
		case !errors.As(err, &ns.NSPathNotExistErr{}):
			return nil, fmt.Errorf("delete %s in %s: %w", c.ifname, c.netns, err)
		}
	}
	// The pair goes with the namespace, but something may keep that alive
	// without a name: a process nobody killed.
	if prev == nil {
		return nil, nil
	}
	h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	if link := findHostEnd(h, prev); link != nil {
		if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("delete %s: %w", link.Attrs().Name, err)
		}
	}
	return nil, nil
}
