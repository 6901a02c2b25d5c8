package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
)

// defaultNetworkName is the CNI name of the embedded network. It must never
// change: host-local's files are found by it.
const defaultNetworkName = "cri-node"

// defaultCNIVersion is the newest version that the plugins of Linux
// distributions understand too; 1.1.0 would add STATUS and GC, which the
// embedded network does not need from a plugin.
const defaultCNIVersion = "1.0.0"

func (d DefaultNetwork) withDefaults() DefaultNetwork {
	if d.Bridge == "" {
		d.Bridge = "cni-node0"
	}
	if len(d.Subnets) == 0 {
		d.Subnets = []netip.Prefix{
			netip.MustParsePrefix("10.87.0.0/24"),
			netip.MustParsePrefix("fd6c:7e3b:91d4::/64"),
		}
	}
	return d
}

func (d DefaultNetwork) validate() error {
	if err := utils.ValidateInterfaceName(d.Bridge); err != nil {
		return fmt.Errorf("bridge of the default network: %w", err)
	}
	families := map[bool]bool{}
	for _, s := range d.Subnets {
		if !s.IsValid() || s.Addr().Is4In6() || s.Addr().BitLen()-s.Bits() < 2 {
			return fmt.Errorf("subnet %v of the default network has no room for a gateway and a pod", s)
		}
		if families[s.Addr().Is4()] {
			return errors.New("the default network takes at most one IPv4 and one IPv6 subnet")
		}
		families[s.Addr().Is4()] = true
	}
	return nil
}

// The parts of a conflist that the embedded network uses.
type (
	confListJSON struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Plugins    []any  `json:"plugins"`
	}
	bridgeJSON struct {
		Type        string   `json:"type"`
		Bridge      string   `json:"bridge"`
		IsGateway   bool     `json:"isGateway"`
		IPMasq      bool     `json:"ipMasq"`
		HairpinMode bool     `json:"hairpinMode"`
		Force       bool     `json:"forceAddress,omitempty"`
		IPAM        ipamJSON `json:"ipam"`
	}
	ipamJSON struct {
		Type    string              `json:"type"`
		DataDir string              `json:"dataDir,omitempty"`
		Ranges  [][]rangeJSON       `json:"ranges"`
		Routes  []map[string]string `json:"routes"`
	}
	rangeJSON struct {
		Subnet string `json:"subnet"`
	}
	portmapJSON struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
	}
)

// confList returns the embedded network for a kernel with or without IPv6.
//
// portmap's backend is left open: it takes iptables where that works and
// nftables otherwise, and older versions know iptables only.
func (d DefaultNetwork) confList(ipv6 bool) (*libcni.NetworkConfigList, error) {
	ipam := ipamJSON{Type: "host-local", DataDir: d.DataDir}
	for _, s := range d.Subnets {
		route := "0.0.0.0/0"
		if s.Addr().Is6() {
			if !ipv6 {
				continue
			}
			route = "::/0"
		}
		ipam.Ranges = append(ipam.Ranges, []rangeJSON{{Subnet: s.Masked().String()}})
		ipam.Routes = append(ipam.Routes, map[string]string{"dst": route})
	}
	if len(ipam.Ranges) == 0 {
		return nil, errors.New("the default network has only an IPv6 subnet, but the kernel has no IPv6: add an IPv4 subnet to network.default_subnets")
	}
	doc, err := json.Marshal(confListJSON{
		CNIVersion: defaultCNIVersion,
		Name:       defaultNetworkName,
		Plugins: []any{
			bridgeJSON{Type: "bridge", Bridge: d.Bridge, IsGateway: true, IPMasq: true, HairpinMode: true, Force: d.replace, IPAM: ipam},
			portmapJSON{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode default network: %w", err)
	}
	return libcni.NetworkConfFromBytes(doc)
}

// kernelHasIPv6 reports whether interfaces can have IPv6 addresses.
func kernelHasIPv6() (bool, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for IPv6: %w", err)
	}
	return strings.TrimSpace(string(b)) == "0", nil
}
