package network

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// podFacts is what an attachment looks like from all sides, without what is
// random.
type podFacts struct {
	Addrs, Routes, Sysctls, BridgeAddrs []string
	MTU, HostMTU                        int
	Up, Hairpin                         bool
	Files, Interfaces                   []string
	IPs                                 string
}

func (f *fixture) facts(t *testing.T, id, netns string, r Result) podFacts {
	t.Helper()
	out := podFacts{IPs: fmt.Sprint(r.IPs)}
	inside(t, netns, func() error {
		link, err := netlink.LinkByName(IfName)
		if err != nil {
			return err
		}
		out.MTU, out.Up = link.Attrs().MTU, link.Attrs().OperState == netlink.OperUp
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				out.Addrs = append(out.Addrs, a.IPNet.String())
			}
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast() && !r.Dst.IP.IsLoopback() {
				out.Routes = append(out.Routes, fmt.Sprintf("%v via %v scope %v", r.Dst, r.Gw, r.Scope))
			}
		}
		for _, key := range []string{"ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/accept_dad", "ipv6/conf/eth0/keep_addr_on_down", "ipv6/conf/eth0/disable_ipv6"} {
			v, err := readSysctl(key)
			if err != nil {
				return err
			}
			out.Sysctls = append(out.Sysctls, key+"="+v)
		}
		return nil
	})
	br, err := netlink.LinkByName(f.cfg.DefaultNetwork.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(br, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			out.BridgeAddrs = append(out.BridgeAddrs, a.IPNet.String())
		}
	}
	for i, iface := range r.Interfaces {
		name := iface.Name
		if i == 1 {
			if len(name) != len("veth00000000") || !strings.HasPrefix(name, "veth") {
				t.Errorf("host interface %q", name)
			}
			name = "veth*"
			host, err := netlink.LinkByName(iface.Name)
			if err != nil {
				t.Fatal(err)
			}
			info, err := netlink.LinkGetProtinfo(host)
			if err != nil {
				t.Fatal(err)
			}
			out.Hairpin, out.HostMTU = info.Hairpin, host.Attrs().MTU
			if host.Attrs().HardwareAddr.String() != iface.MAC {
				t.Errorf("host MAC is %v, result says %v", host.Attrs().HardwareAddr, iface.MAC)
			}
		}
		out.Interfaces = append(out.Interfaces, name+" "+strings.ReplaceAll(iface.Sandbox, netns, "NETNS"))
	}
	err = filepath.WalkDir(f.dataDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		doc, err := os.ReadFile(path)
		out.Files = append(out.Files, fmt.Sprintf("%s %q", path[len(f.dataDir):], strings.ReplaceAll(string(doc), id, "ID")))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestInProcessEqualsRealPlugins(t *testing.T) {
	tests := []struct {
		name   string
		change func(map[string]any)
	}{
		{"as the default", nil},
		{"mtu and default gateway", func(p map[string]any) {
			if p["type"] == "bridge" {
				p["mtu"], p["isDefaultGateway"], p["hairpinMode"], p["ipMasq"] = 1400, true, false, false
				delete(p["ipam"].(map[string]any), "routes")
			}
		}},
		{"layer 2 bridge", func(p map[string]any) {
			if p["type"] == "bridge" {
				p["isGateway"], p["ipMasq"] = false, false
				delete(p["ipam"].(map[string]any), "routes")
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got [2]podFacts
			var raw [2]map[string]any
			base := newFixture(t, nil).cfg.DefaultNetwork
			for i, inProcess := range []bool{true, false} {
				f := newFixture(t, func(c *Config) {
					c.InProcess = inProcess
					c.DefaultNetwork.Subnets, c.DefaultNetwork.Bridge = base.Subnets, base.Bridge
				})
				f.writeConf(t, "10-test.conflist", f.defaultConfDoc(t, "test", tt.change))
				netns := newNetNS(t)
				id := fmt.Sprintf("equal-%d", i)
				r, err := f.Attach(t.Context(), Attachment{ID: id, NetNS: netns})
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "link up", func() bool { return f.facts(t, id, netns, r).Up })
				got[i] = f.facts(t, id, netns, r)
				if err := json.Unmarshal(r.Raw, &raw[i]); err != nil {
					t.Fatal(err)
				}
				delete(raw[i], "interfaces") // compared above, without the random names
				if err := f.Detach(t.Context(), id, netns); err != nil {
					t.Fatal(err)
				}
				f.wantClean(t, id)
				command(t, "ip", "link", "del", base.Bridge)
			}
			if d := cmp.Diff(got[1], got[0]); d != "" {
				t.Errorf("real (-) and in process (+):\n%s", d)
			}
			if d := cmp.Diff(raw[1], raw[0]); d != "" {
				t.Errorf("result, real (-) and in process (+):\n%s", d)
			}
		})
	}
}

// TestCrossDEL has one implementation undo the work of the other, for a network
// from a file and for the embedded one.
func TestCrossDEL(t *testing.T) {
	for _, addInProcess := range []bool{true, false} {
		for _, embedded := range []bool{true, false} {
			for _, netnsGone := range []bool{true, false} {
				t.Run(fmt.Sprintf("added in process %v, embedded %v, netns gone %v", addInProcess, embedded, netnsGone), func(t *testing.T) {
					f := newFixture(t, func(c *Config) { c.InProcess = addInProcess })
					if !embedded {
						f.writeConf(t, "10-test.conflist", f.defaultConfDoc(t, "test", nil))
					}
					netns := newNetNS(t)
					if _, err := f.Attach(t.Context(), Attachment{ID: "cross", NetNS: netns}); err != nil {
						t.Fatal(err)
					}
					rec, err := f.loadIntent("cross")
					if err != nil {
						t.Fatal(err)
					}
					// The other implementation, told the truth about ADD or not.
					f.cfg.InProcess = !addInProcess
					f.reopen(t)
					if !f.cfg.InProcess {
						rec.InProcess = false
						if err := f.saveIntent(*rec); err != nil {
							t.Fatal(err)
						}
					}
					if netnsGone {
						unpin(t, netns)
						eventually(t, "end of the namespace", func() bool { return ports(t, f.cfg.DefaultNetwork.Bridge) == 0 })
					}
					if err := f.Detach(t.Context(), "cross", netns); err != nil {
						t.Fatal(err)
					}
					if !addInProcess || !netnsGone || embedded {
						// The real plugin's DEL leaves masquerade rules behind
						// without a namespace; ours does not.
						f.wantClean(t, "cross")
					}
					eventually(t, "end of the links", func() bool { return ports(t, f.cfg.DefaultNetwork.Bridge) == 0 })
				})
			}
		}
	}
}
