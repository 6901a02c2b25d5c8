package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newOutside connects a namespace to the host by a link of its own. It has no
// route to pods, so that only masqueraded packets get an answer.
func newOutside(t *testing.T) (path string, host, outside [2]netip.Addr) {
	t.Helper()
	path = newNetNS(t)
	nets := [2]string{"192.0.2.%d/24", "2001:db8::%d/64"}
	command(t, "ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
	t.Cleanup(func() { command(t, "ip", "link", "del", "out0") })
	peer, err := netlink.LinkByName("out1")
	if err != nil {
		t.Fatal(err)
	}
	command(t, "ip", "link", "set", "out0", "up")
	h, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsFd(peer, int(h.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for i, n := range nets {
		host[i] = netip.MustParsePrefix(fmt.Sprintf(n, 1)).Addr()
		outside[i] = netip.MustParsePrefix(fmt.Sprintf(n, 2)).Addr()
		command(t, "ip", "addr", "add", fmt.Sprintf(n, 1), "dev", "out0", "nodad")
		command(t, "nsenter", "--net="+path, "ip", "addr", "add", fmt.Sprintf(n, 2), "dev", "out1", "nodad")
	}
	command(t, "nsenter", "--net="+path, "ip", "link", "set", "out1", "up")
	return path, host, outside
}

func TestMasquerade(t *testing.T) {
	outside, host, addrs := newOutside(t)
	listen(t, outside, ":7000")
	for _, embedded := range []bool{true, false} {
		for _, inProcess := range []bool{true, false} {
			t.Run(fmt.Sprintf("embedded %v, in process %v", embedded, inProcess), func(t *testing.T) {
				f := newFixture(t, func(c *Config) { c.InProcess = inProcess })
				if !embedded {
					f.writeConf(t, "10-test.conflist", f.defaultConfDoc(t, "test", nil))
				}
				var pods []string
				for i := range 2 {
					netns := newNetNS(t)
					pods = append(pods, netns)
					if _, err := f.Attach(t.Context(), Attachment{ID: fmt.Sprintf("masq-%d", i), NetNS: netns}); err != nil {
						t.Fatal(err)
					}
				}
				for i, addr := range addrs {
					if seen, err := dial(t, pods[0], addr.String(), 7000); err != nil || seen != host[i].String() {
						t.Errorf("outside sees %q instead of %v: %v", seen, host[i], err)
					}
				}
				rules := command(t, "nft", "list", "ruleset")
				for _, s := range f.cfg.DefaultNetwork.Subnets {
					if n := strings.Count(rules, `comment "`+ownComment(s)+`"`); embedded && inProcess && n != 1 {
						t.Errorf("%d rules for %v in\n%s", n, s, rules)
					}
				}
				for i, netns := range pods {
					if err := f.Detach(t.Context(), fmt.Sprintf("masq-%d", i), netns); err != nil {
						t.Fatal(err)
					}
					f.wantClean(t, fmt.Sprintf("masq-%d", i))
				}
			})
		}
	}
}

// TestMasqueradeComesBack is `nft flush ruleset`, or a reload of firewalld.
func TestMasqueradeComesBack(t *testing.T) {
	f := newFixture(t, nil)
	if _, err := f.Attach(t.Context(), Attachment{ID: "flush", NetNS: newNetNS(t)}); err != nil {
		t.Fatal(err)
	}
	command(t, "nft", "flush", "ruleset")
	f.masq.checked = f.masq.checked.Add(-masqRecheck)
	if err := f.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rules := command(t, "nft", "list", "table", "inet", ownTable); strings.Count(rules, "masquerade") != 2 {
		t.Errorf("rules are\n%s", rules)
	}
	// Another network takes over: once the last pod has gone, so do the rules.
	f.writeConf(t, "10-test.conflist", f.defaultConfDoc(t, "test", nil))
	if err := f.GC(t.Context(), []string{"flush"}); err != nil {
		t.Fatal(err)
	}
	command(t, "nft", "list", "table", "inet", ownTable)
	if err := f.Detach(t.Context(), "flush", ""); err != nil {
		t.Fatal(err)
	}
	if err := f.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if rules := command(t, "nft", "list", "ruleset"); strings.Contains(rules, ownTable) {
		t.Errorf("rules are left:\n%s", rules)
	}
}

func TestPortMappings(t *testing.T) {
	outside, host, _ := newOutside(t)
	f := newFixture(t, nil)
	pod, neighbour := newNetNS(t), newNetNS(t)
	// Both families: a listener for each is what a pod has.
	listen(t, pod, ":80")
	a := Attachment{ID: "mapped", NetNS: pod, PortMappings: []PortMapping{
		{HostPort: 12000, ContainerPort: 80, Protocol: "TCP"},
		{HostPort: 12001, ContainerPort: 80, HostIP: "127.0.0.1"},
		{ContainerPort: 81, Protocol: "tcp"}, // asks for nothing
	}}
	r, err := f.Attach(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Attach(t.Context(), Attachment{ID: "plain", NetNS: neighbour}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to string
		port     int
		ok       bool
	}{
		{"", "127.0.0.1", 12000, true},
		{"", "127.0.0.1", 12001, true},
		{"", host[0].String(), 12000, true},
		{"", host[0].String(), 12001, false},
		{"", host[1].String(), 12000, true},
		{outside, host[0].String(), 12000, true},
		{outside, host[1].String(), 12000, true},
		{neighbour, host[0].String(), 12000, true},
		{pod, host[0].String(), 12000, true}, // hairpin
		{"", r.IPs[0].String(), 80, true},
	} {
		if _, err := dial(t, c.from, c.to, c.port); (err == nil) != c.ok {
			t.Errorf("from %q to %s:%d: %v", c.from, c.to, c.port, err)
		}
	}
	if err := f.Detach(t.Context(), "mapped", pod); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, "", "127.0.0.1", 12000); err == nil {
		t.Error("the mapping is still there")
	}
	f.wantClean(t, "mapped")
	if err := f.Detach(t.Context(), "plain", neighbour); err != nil {
		t.Fatal(err)
	}
}

func TestParallelAttachments(t *testing.T) {
	const n = 50
	f := newFixture(t, nil)
	results := make([]Result, n)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = newNetNS(t)
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if results[i], err = f.Attach(t.Context(), Attachment{ID: fmt.Sprintf("par-%d", i), NetNS: paths[i]}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for i, r := range results {
		for _, ip := range r.IPs {
			if seen[ip] {
				t.Errorf("%v is given twice", ip)
			}
			seen[ip] = true
		}
		wg.Go(func() {
			if err := f.Detach(t.Context(), fmt.Sprintf("par-%d", i), paths[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(seen) != 2*n {
		t.Errorf("%d addresses", len(seen))
	}
	f.wantClean(t, "par-")
}

// TestHostPortsComeBack: rules that a pod's host ports need are put back,
// whoever removes them and however, also while no daemon runs; those of a pod
// that has gone are not.
func TestHostPortsComeBack(t *testing.T) {
	outside, host, _ := newOutside(t)
	for _, backend := range []string{"", "nftables"} {
		t.Run("backend "+backend, func(t *testing.T) {
			f := newFixture(t, nil)
			f.writeConf(t, "10-test.conflist", f.defaultConfDoc(t, "test", func(plugin map[string]any) {
				if plugin["type"] == "portmap" && backend != "" {
					plugin["backend"] = backend
				}
			}))
			netns := newNetNS(t)
			a := Attachment{ID: "ports", NetNS: netns, PortMappings: []PortMapping{{HostPort: 8088, ContainerPort: 80, Protocol: "tcp"}}}
			if _, err := f.Attach(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			listen(t, netns, ":80")
			reachable := func() bool {
				_, err := dial(t, outside, host[0].String(), 8088)
				return err == nil
			}
			if !reachable() {
				t.Fatal("the port is not reachable to begin with")
			}
			awaitPort := func(what string) {
				t.Helper()
				for deadline := time.Now().Add(15 * time.Second); !reachable(); {
					if time.Now().After(deadline) {
						t.Fatalf("after %s the port stays closed:\n%s", what, command(t, "nft", "list", "ruleset"))
					}
				}
			}
			command(t, "nft", "flush", "ruleset")
			awaitPort("nft flush ruleset")
			if backend == "" {
				command(t, "iptables", "-t", "nat", "-F")
				awaitPort("iptables -F")
				command(t, "iptables", "-t", "nat", "-D", "PREROUTING", "1")
				awaitPort("iptables -D")
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			command(t, "nft", "flush", "ruleset")
			f.Network = nil
			f.reopen(t)
			awaitPort("a flush while the daemon was down")
			// The first waits for what is under way, the second has nothing to do.
			if err := f.restoreHostPorts(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := command(t, "nft", "list", "ruleset")
			if err := f.restoreHostPorts(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := command(t, "nft", "list", "ruleset"); strings.Count(after, "dnat") != strings.Count(before, "dnat") {
				t.Errorf("rules are made again:\n%s", after)
			}
			if err := f.Detach(t.Context(), "ports", netns); err != nil {
				t.Fatal(err)
			}
			command(t, "nft", "flush", "ruleset")
			if err := f.restoreHostPorts(t.Context()); err != nil {
				t.Fatal(err)
			}
			if rules := command(t, "nft", "list", "ruleset"); strings.Contains(rules, "8088") {
				t.Errorf("the port of a pod that has gone is back:\n%s", rules)
			}
			f.wantClean(t, "ports")
		})
	}
}

func TestRuleMessages(t *testing.T) {
	message := func(kind uint16, length uint32) []byte {
		b := make([]byte, 20)
		binary.NativeEndian.PutUint32(b, length)
		binary.NativeEndian.PutUint16(b[4:], kind)
		return b
	}
	for _, tc := range []struct {
		bytes []byte
		want  bool
	}{
		{nil, false},
		{message(10<<8|unix.NFT_MSG_DELTABLE, 20), true},
		{message(10<<8|unix.NFT_MSG_NEWRULE, 20), false},
		{message(1<<8|unix.NFT_MSG_DELRULE, 20), false},
		{append(message(10<<8|unix.NFT_MSG_NEWRULE, 20), message(10<<8|unix.NFT_MSG_DELCHAIN, 20)...), true},
		{append(message(10<<8|unix.NFT_MSG_NEWRULE, 0), message(10<<8|unix.NFT_MSG_DELRULE, 20)...), false},
		{message(10<<8|unix.NFT_MSG_NEWRULE, 0xffffffff), false},
		{message(10<<8|unix.NFT_MSG_DELRULE, 20)[:10], false},
	} {
		if got := removes(tc.bytes); got != tc.want {
			t.Errorf("%x: %v", tc.bytes, got)
		}
	}
}
