package network

import (
	"context"
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// bridge does what the bridge plugin does. Against it there are three
// deliberate differences, none of which its DEL or CHECK can see:
//
//   - It waits for nothing. The plugin sleeps until the port is up and until
//     IPv6 duplicate address detection is over; here addresses are added as
//     known to be unique, which they are: host-local handed them out.
//   - The pod's interface ignores router advertisements (CVE-2020-10749).
//   - Masquerading is nftables' wherever the kernel has it; see masquerade.
func (c *call) bridge(ctx context.Context) ([]byte, error) {
	conf, err := parseBridgeConf(c.stdin)
	if err != nil {
		return nil, err
	}
	switch c.command {
	case "ADD":
		r, err := c.bridgeAdd(ctx, conf)
		if err != nil {
			return nil, err
		}
		return encodeResult(r, conf.CNIVersion)
	case "DEL":
		return nil, c.bridgeDel(ctx, conf)
	case "GC":
		return nil, c.bridgeGC(conf)
	case "STATUS":
		return nil, nil
	}
	return nil, errNotBuiltin
}

// bridgeAdd reserves addresses, makes the bridge and the pair of interfaces,
// and undoes all but the bridge when a step fails.
func (c *call) bridgeAdd(ctx context.Context, conf *bridgeConf) (_ *current.Result, err error) {
	if err := c.op.n.rtnl.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait for a turn at the network: %w", err)
	}
	defer c.op.n.rtnl.Release(1)

	netns, err := ns.GetNS(c.netns)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer netns.Close()
	h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()

	ipam, err := openHostLocal(c.stdin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ipam.close()) }()
	result, err := ipam.reserve(c.id, c.ifname)
	if err != nil {
		return nil, err
	}
	undo := []func() error{func() error { return ipam.release(c.id, c.ifname) }}
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	gateways := setGateways(result, conf)
	br, err := ensureBridge(h, conf, gateways)
	if err != nil {
		return nil, err
	}
	pair := vethPair{conf: conf, bridge: br, netns: netns, podName: c.ifname}
	host, err := pair.add(h)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return h.LinkDel(host) })
	if err := configurePod(netns, c.ifname, result); err != nil {
		return nil, err
	}
	if conf.IPMasq {
		if err := c.masquerade(conf, result); err != nil {
			return nil, err
		}
	}
	result.Interfaces = []*current.Interface{
		{Name: br.Attrs().Name, Mac: br.Attrs().HardwareAddr.String()},
		{Name: host.Attrs().Name, Mac: host.Attrs().HardwareAddr.String()},
		{Name: c.ifname, Mac: host.PeerHardwareAddr.String(), Sandbox: c.netns},
	}
	if d := conf.DNS; d.Nameservers != nil || d.Search != nil || d.Options != nil || d.Domain != "" {
		result.DNS = d
	}
	return result, nil
}

// bridgeDel gives back what bridgeAdd, or the real plugin, took. It works with
// as little as is left: no namespace, no result.
func (c *call) bridgeDel(ctx context.Context, conf *bridgeConf) (err error) {
	if err := c.op.n.rtnl.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for a turn at the network: %w", err)
	}
	defer c.op.n.rtnl.Release(1)

	prev := c.prevResult()
	addrs, err := c.deleteLinks(prev)
	if err != nil {
		return err
	}
	if len(addrs) == 0 && prev != nil {
		for _, p := range prev.IPs {
			addrs = append(addrs, &p.Address)
		}
	}
	if err := c.releaseAddresses(prev); err != nil {
		return err
	}
	if conf.IPMasq {
		return c.unmasquerade(conf, addrs)
	}
	return nil
}

// releaseAddresses trusts the result only as far as it accounts for one
// address of each range.
func (c *call) releaseAddresses(prev *current.Result) (err error) {
	ipam, err := openHostLocal(c.stdin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ipam.close()) }()
	if prev != nil {
		n, err := ipam.releaseAddresses(c.id, c.ifname, prev.IPs)
		if err != nil || n == len(ipam.conf.Ranges) {
			return err
		}
	}
	return ipam.release(c.id, c.ifname)
}

// bridgeGC gives back what belongs to no valid attachment.
func (c *call) bridgeGC(conf *bridgeConf) (err error) {
	valid := map[string]bool{}
	for _, a := range conf.ValidAttachments {
		valid[a.ContainerID] = true
	}
	keep := func(id string) bool { return valid[id] || c.op.n.isLive(id) }
	ipam, err := openHostLocal(c.stdin)
	if err != nil {
		return err
	}
	err = errors.Join(ipam.releaseInvalid(keep), ipam.close())
	if conf.IPMasq && !c.embedded() {
		err = errors.Join(err, c.op.n.masq.gcPodRules(conf.Name, keep))
	}
	return err
}

// embedded reports whether the call is for the default network.
func (c *call) embedded() bool { return c.op.rec != nil && c.op.rec.File == "" }
