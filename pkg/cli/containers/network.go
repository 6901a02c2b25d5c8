package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// network is one as docker's inspect shows it.
type network struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	Internal   bool
	Attachable bool
	Containers map[string]endpoint
	Options    map[string]string
	Labels     map[string]string
}

// endpoint is a member of a network; its addresses are those of its pod.
type endpoint struct{ Name, IPv4Address, IPv6Address string }

// inspectNetwork describes a network that was made or has members.
func inspectNetwork(ctx context.Context, n *client.Node, name string) ([]byte, error) {
	r, err := n.System.ListNetworks(ctx, &nodev1.ListNetworksRequest{})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(r.GetNetworks(), func(n *nodev1.Network) bool { return n.GetName() == name })
	if i < 0 {
		return nil, fmt.Errorf("%w network: %s", errNone, name)
	}
	members, err := n.Containers.List(ctx, &nodev1.ListRequest{})
	if err != nil {
		return nil, err
	}
	return json.Marshal(networkDocument(r.GetNetworks()[i], members.GetContainers()))
}

func networkDocument(n *nodev1.Network, all []*nodev1.Container) network {
	out := network{
		Name: n.GetName(), ID: n.GetName(), Created: time.Unix(0, n.GetCreatedAt()).UTC().Format(time.RFC3339Nano),
		Scope: "local", Driver: "bridge", EnableIPv4: true, Attachable: true,
		Containers: map[string]endpoint{}, Options: map[string]string{}, Labels: map[string]string{},
	}
	if len(n.GetLabels()) > 0 {
		out.Labels = n.GetLabels()
	}
	for _, c := range all {
		if !slices.Contains(n.GetContainers(), c.GetId()) {
			continue
		}
		e := endpoint{Name: c.GetName()}
		for _, ip := range c.GetIps() {
			if strings.Contains(ip, ":") {
				e.IPv6Address, out.EnableIPv6 = ip, true
			} else {
				e.IPv4Address = ip
			}
		}
		out.Containers[c.GetId()] = e
	}
	return out
}
