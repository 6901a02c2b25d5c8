package network

import (
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestDefaultNetworkConnectsPods(t *testing.T) {
	f := newFixture(t, nil)
	if err := f.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b := newNetNS(t), newNetNS(t)
	ra, err := f.Attach(t.Context(), Attachment{ID: "pod-a", Namespace: "ns", Name: "a", UID: "u", NetNS: a})
	if err != nil {
		t.Fatal(err)
	}
	// No waiting anywhere here: the network must carry the first packet.
	listen(t, a, ":8080")
	start := time.Now()
	for _, ip := range ra.IPs {
		if _, err := dial(t, "", ip.String(), 8080); err != nil {
			t.Errorf("host to %s: %v", ip, err)
		}
		t.Logf("host to %s after %v", ip, time.Since(start))
	}
	rb, err := f.Attach(t.Context(), Attachment{ID: "pod-b", NetNS: b})
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	for i, ip := range ra.IPs {
		seen, err := dial(t, b, ip.String(), 8080)
		if err != nil || seen != rb.IPs[i].String() {
			t.Errorf("pod to %s: seen as %s, %v", ip, seen, err)
		}
		t.Logf("pod to %s after %v", ip, time.Since(start))
	}
	if len(ra.IPs) != 2 || !ra.IPs[0].Is4() || !ra.IPs[1].Is6() || ra.IPs[0] == rb.IPs[0] {
		t.Errorf("addresses %v and %v", ra.IPs, rb.IPs)
	}
	if !f.cfg.DefaultNetwork.Subnets[0].Contains(ra.IPs[0]) || ra.IPs[0] == netip.MustParseAddr("10.99.1.1") {
		t.Errorf("address %v", ra.IPs[0])
	}
	for id, netns := range map[string]string{"pod-b": b, "pod-a": a} {
		for range 2 {
			if err := f.Detach(t.Context(), id, netns); err != nil {
				t.Fatal(err)
			}
		}
		f.wantClean(t, id)
	}
	// Both namespaces are still there, so the pairs are the reaper's.
	eventually(t, "reaping", func() bool { return ports(t, f.cfg.DefaultNetwork.Bridge) == 0 })
}

func TestAttachRefusesNonsense(t *testing.T) {
	f := newFixture(t, nil)
	good := Attachment{ID: "id", NetNS: "/proc/self/ns/net"}
	for name, change := range map[string]func(*Attachment){
		"id":             func(a *Attachment) { a.ID = "../x" },
		"no id":          func(a *Attachment) { a.ID = "" },
		"no namespace":   func(a *Attachment) { a.NetNS = "" },
		"name":           func(a *Attachment) { a.Name = "x;IP=10.0.0.1" },
		"host port":      func(a *Attachment) { a.PortMappings = []PortMapping{{HostPort: 70000, ContainerPort: 1}} },
		"negative port":  func(a *Attachment) { a.PortMappings = []PortMapping{{HostPort: -1, ContainerPort: 1}} },
		"container port": func(a *Attachment) { a.PortMappings = []PortMapping{{HostPort: 1}} },
		"protocol":       func(a *Attachment) { a.PortMappings = []PortMapping{{HostPort: 1, ContainerPort: 1, Protocol: "icmp"}} },
		"host IP":        func(a *Attachment) { a.PortMappings = []PortMapping{{HostPort: 1, ContainerPort: 1, HostIP: "host"}} },
		"IP with a scope": func(a *Attachment) {
			a.PortMappings = []PortMapping{{HostPort: 1, ContainerPort: 1, HostIP: "fe80::1%eth0"}}
		},
	} {
		a := good
		change(&a)
		if _, err := f.Attach(t.Context(), a); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Detach(t.Context(), "../x", ""); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	a := good
	a.NetNS = "/nonexistent"
	if _, err := f.Attach(t.Context(), a); err == nil {
		t.Error("no error without a namespace")
	}
	f.wantClean(t, "id")
}
