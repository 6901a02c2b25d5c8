package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Deleting an interface makes the kernel wait for RCU several times, 15 to 40
// ms in which nobody else on the machine can change an interface. A pod's pair
// goes with its namespace anyway, which the kernel does for many at once and in
// the background. So DEL only retires the pair: its port is disabled, which ends
// the pod's traffic at once and makes its addresses free to use, and it joins a
// group of interfaces. What is still in the group a moment later, because
// something keeps the namespace alive, is deleted all at once.
const (
	// retiredGroup marks retired interfaces on the host; "crn".
	retiredGroup = 0x63726e
	// retireTime is how long a pair may wait for its namespace to go.
	retireTime = time.Second
)

// reaper deletes retired interfaces.
type reaper struct {
	wake chan struct{} // capacity 1: something was retired
}

// run reaps a while after each retirement until ctx ends, and once more then.
func (r *reaper) run(ctx context.Context) {
	due := time.NewTimer(retireTime)
	due.Stop()
	defer due.Stop()
	for {
		select {
		case <-r.wake:
			due.Reset(retireTime)
		case <-due.C:
			// What could not be deleted is in the group until the next time.
			_ = reap()
		case <-ctx.Done():
			_ = reap()
			return
		}
	}
}

// retired makes sure that somebody reaps later.
func (r *reaper) retired() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// reap deletes all retired interfaces in one step.
func reap() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(retiredGroup)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete retired interfaces: %w", err)
	}
	return nil
}

// retire takes the host's end of a pod's pair out of use. done is false where
// there is no such interface, or where it cannot be retired.
func retire(prev *current.Result) (done bool, err error) {
	h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	link := findHostEnd(h, prev)
	if link == nil || link.Attrs().MasterIndex == 0 {
		return false, nil
	}
	if err := disablePort(link); err != nil {
		return false, nil // the kernel's spanning tree forbids it, or it just vanished
	}
	if err := h.LinkSetGroup(link, retiredGroup); err != nil {
		return false, fmt.Errorf("retire %s: %w", link.Attrs().Name, err)
	}
	return true, nil
}

// findHostEnd returns the veth of a result that is not in the pod, or nil. The
// name alone does not prove that it still is the same interface.
func findHostEnd(h netlinksafe.Handle, prev *current.Result) netlink.Link {
	for _, i := range prev.Interfaces {
		mac, err := net.ParseMAC(i.Mac)
		if i.Sandbox != "" || err != nil {
			continue
		}
		link, err := h.LinkByName(i.Name)
		if err == nil && link.Type() == "veth" && bytes.Equal(mac, link.Attrs().HardwareAddr) {
			return link
		}
	}
	return nil
}

// disablePort has the bridge drop all from and to a port.
func disablePort(port netlink.Link) error {
	const brPortState, disabled = 1, 0 // IFLA_BRPORT_STATE, BR_STATE_DISABLED
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(port.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(brPortState, []byte{disabled})
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
