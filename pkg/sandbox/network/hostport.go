package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/utils"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

// Host ports are rules that the portmap plugin has made, among those of
// everybody else. `nft flush ruleset` and a reload of firewalld take them away,
// and nobody else puts them back.
const (
	// rulesSettle lets whoever changes the rules finish.
	rulesSettle = 500 * time.Millisecond
	// rulesRetry is when a restoration that failed is tried again.
	rulesRetry = 30 * time.Second
	// restoreTimeout bounds the plugins of one pod.
	restoreTimeout = 30 * time.Second
	// Where the plugin's backends, iptables and nftables, have the rules.
	hostPortChain = "CNI-HOSTPORT-DNAT"
	hostPortTable = "cni_hostport"
)

// keepHostPorts puts the rules of host ports back whenever they are gone,
// until ctx ends. w may be nil, for a kernel that tells no changes: it then
// looks once.
func (n *Network) keepHostPorts(ctx context.Context, w *ruleWatch) {
	// Somebody may have been quicker than this process.
	timer := time.NewTimer(0)
	defer timer.Stop()
	var changed chan struct{}
	if w != nil {
		changed = w.changed
	}
	waiting := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if !waiting {
				timer.Reset(rulesSettle)
				waiting = true
			}
		case <-timer.C:
			waiting = false
			if err := n.restoreHostPorts(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Host ports of pods are out of order")
				timer.Reset(rulesRetry)
				waiting = true
			}
		}
	}
}

// startHostPorts begins to look after the host ports of all pods.
func (n *Network) startHostPorts(ctx context.Context) error {
	if err := n.recallMapped(); err != nil {
		return err
	}
	w, err := newRuleWatch()
	if err == nil {
		n.rules = w
		n.running.Go(w.run)
	}
	n.running.Go(func() { n.keepHostPorts(ctx, n.rules) })
	return nil
}

// restoreHostPorts looks after all pods that have host ports.
func (n *Network) restoreHostPorts(ctx context.Context) error {
	var errs []error
	for _, id := range n.mappedIDs() {
		if err := ctx.Err(); err != nil {
			return err
		}
		errs = append(errs, guard.Call(klog.FromContext(ctx), "the host ports of pod "+id, func() error { return n.restoreHostPort(ctx, id) }))
	}
	return errors.Join(errs...)
}

// restoreHostPort makes the rules of one pod anew where they are gone.
func (n *Network) restoreHostPort(ctx context.Context, id string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	unlock, err := n.ids.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := n.loadIntent(id)
	if errors.Is(err, fs.ErrNotExist) {
		n.setMapped(id, false)
		return nil
	}
	if err != nil {
		return err
	}
	// A debt has a pod no more, and must not get its ports back.
	if livingNetNS(rec.Attachment.NetNS) == "" {
		return nil
	}
	list, err := parseConf(rec.Conf, "")
	if err != nil {
		return fmt.Errorf("parse recorded network configuration: %w", err)
	}
	op := &operation{n: n, id: id, rec: rec}
	defer func() {
		if op.lock != nil {
			err = errors.Join(err, removeFile(n.lockPath(id)), op.close())
		}
	}()
	rt := rec.runtimeConf(rec.Attachment.NetNS)
	previous, err := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, n.cfg.CacheDir, op).GetNetworkListCachedResult(list, rt)
	if err != nil || previous == nil {
		return err
	}
	inPlace, visible := lookAtRules(list.Name, &rec.Attachment, previous)
	if inPlace {
		return nil
	}
	for _, p := range list.Plugins {
		if p.Network.Type != "portmap" || !p.Network.Capabilities["portMappings"] {
			continue
		}
		m := portmap{op: op, list: list, plugin: p, rt: rt, previous: previous}
		if !visible && m.run(ctx, "CHECK") == nil {
			continue // in legacy iptables
		}
		klog.FromContext(ctx).Info("Putting back the host ports of a pod: their rules were removed", "sandboxID", id)
		if err := errors.Join(m.run(ctx, "DEL"), m.run(ctx, "ADD")); err != nil {
			return fmt.Errorf("restore host ports of %s: %w", id, err)
		}
	}
	return nil
}

// portmap is the plugin, run alone at the end of the chain that it is in.
type portmap struct {
	op       *operation
	list     *libcni.NetworkConfigList
	plugin   *libcni.PluginConfig
	rt       *libcni.RuntimeConf
	previous types.Result
}

func (m *portmap) run(ctx context.Context, command string) error {
	previous, err := m.previous.GetAsVersion(m.list.CNIVersion)
	if err != nil {
		return fmt.Errorf("convert result to version %s: %w", m.list.CNIVersion, err)
	}
	conf, err := libcni.InjectConf(m.plugin, map[string]any{
		"name": m.list.Name, "cniVersion": m.list.CNIVersion, "prevResult": previous, "runtimeConfig": m.rt.CapabilityArgs,
	})
	if err != nil {
		return fmt.Errorf("configure CNI plugin portmap: %w", err)
	}
	path, err := m.op.n.findPlugin(m.plugin.Network.Type)
	if err != nil {
		return err
	}
	args := &invoke.Args{
		Command: command, ContainerID: m.rt.ContainerID, NetNS: m.rt.NetNS, IfName: m.rt.IfName, PluginArgs: m.rt.Args,
		Path: strings.Join(m.op.n.cfg.PluginDirs, string(filepath.ListSeparator)),
	}
	if command == "ADD" {
		_, err := invoke.ExecPluginWithResult(ctx, path, conf.Bytes, args, m.op)
		return err
	}
	return invoke.ExecPluginWithoutResult(ctx, path, conf.Bytes, args, m.op)
}

// lookAtRules is a quick look at what the plugin's two backends make. Where
// nothing of either is visible, legacy iptables may have the rules. It sees more
// than CHECK of the plugin, which trusts the chains that pods share.
func lookAtRules(network string, pod *Attachment, result types.Result) (inPlace, visible bool) {
	r, err := newResult(result)
	if err != nil {
		return false, false
	}
	conn, err := nftables.New()
	if err != nil {
		return false, false
	}
	chains, err := conn.ListChains()
	if err != nil {
		return false, false
	}
	visible = slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
		return c.Name == hostPortChain || c.Table.Name == hostPortTable
	})
	for _, addr := range r.IPs {
		if !mapsTo(pod.PortMappings, addr) {
			continue
		}
		family := nftables.TableFamilyIPv4
		if addr.Is6() {
			family = nftables.TableFamilyIPv6
		}
		if !iptablesRules(conn, family, network, pod.ID) && !nftablesRules(conn, family, pod.ID) {
			return false, visible
		}
	}
	return true, visible
}

// mapsTo reports whether host ports lead to an address of a pod: those of an
// address of the host lead to one of the same family only, and the plugin makes no
// rules for the other.
func mapsTo(mappings []PortMapping, pod netip.Addr) bool {
	return slices.ContainsFunc(mappings, func(m PortMapping) bool {
		host, err := netip.ParseAddr(m.HostIP)
		return m.HostPort > 0 && (err != nil || host.Unmap().Is4() == pod.Unmap().Is4())
	})
}

// iptablesRules follows the jumps from the kernel's hooks to the pod's chain.
func iptablesRules(conn *nftables.Conn, family nftables.TableFamily, network, id string) bool {
	own := utils.MustFormatChainNameWithPrefix(network, id, "DN-")
	rules := ruleLister{conn: conn, table: &nftables.Table{Family: family, Name: "nat"}}
	return rules.jumps("PREROUTING", hostPortChain) && rules.jumps("OUTPUT", hostPortChain) && rules.jumps("POSTROUTING", "CNI-HOSTPORT-MASQ") &&
		rules.jumps(hostPortChain, own) && len(rules.of(own)) > 0 && len(rules.of("CNI-HOSTPORT-MASQ")) > 0
}

func nftablesRules(conn *nftables.Conn, family nftables.TableFamily, id string) bool {
	rules := ruleLister{conn: conn, table: &nftables.Table{Family: family, Name: hostPortTable}}
	ofPod := func(r *nftables.Rule) bool {
		comment, ok := userdata.GetString(r.UserData, userdata.TypeComment)
		return ok && comment == id
	}
	return rules.jumps("prerouting", "hostports_all") && rules.jumps("output", "hostports_all") &&
		rules.jumps("hostports_all", "hostports") && slices.ContainsFunc(rules.of("hostports"), ofPod)
}

// ruleLister lists the rules of a table's chains; one that cannot be listed
// has none.
type ruleLister struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func (l ruleLister) of(chain string) []*nftables.Rule {
	rules, err := l.conn.GetRules(l.table, &nftables.Chain{Name: chain, Table: l.table})
	if err != nil {
		return nil
	}
	return rules
}

// jumps reports whether a rule of a chain leads to another chain.
func (l ruleLister) jumps(from, to string) bool {
	return slices.ContainsFunc(l.of(from), func(r *nftables.Rule) bool {
		return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Chain == to && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto)
		})
	})
}

// setMapped notes whether a pod has host ports.
func (n *Network) setMapped(id string, mapped bool) {
	n.liveMu.Lock()
	defer n.liveMu.Unlock()
	if mapped {
		n.mapped[id] = true
	} else {
		delete(n.mapped, id)
	}
}

func (n *Network) mappedIDs() []string {
	n.liveMu.Lock()
	defer n.liveMu.Unlock()
	ids := make([]string, 0, len(n.mapped))
	for id := range n.mapped {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// recallMapped finds the pods of an earlier process that have host ports.
func (n *Network) recallMapped() error {
	ids, err := n.intentIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		// A record that cannot be read is for GC and Detach to complain about.
		if rec, err := n.loadIntent(id); err == nil && len(rec.Attachment.PortMappings) > 0 {
			n.setMapped(id, true)
		}
	}
	return nil
}
