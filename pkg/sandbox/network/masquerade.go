package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/utils"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// The embedded network has one table with one rule for each subnet, made once
// and verified now and then, so that a pod's start and end leave nftables
// alone:
//
//	table inet cri-node { chain postrouting {
//	    type nat hook postrouting priority srcnat
//	    ip saddr 10.87.0.0/24 ip daddr != 10.87.0.0/24 ip daddr != 224.0.0.0/4 masquerade
//	} }
//
// Networks from files have one rule for each pod, exactly as the nftables
// backend of the plugins makes them (table inet cni_plugins_masquerade), found
// by its comment.
const (
	ownTable      = "cri-node"
	pluginTable   = "cni_plugins_masquerade"
	pluginChain   = "masq_checks"
	postrouting   = "postrouting"
	maxNFTComment = 128
	// masqRecheck is how long the static rules are trusted to be there.
	masqRecheck = 5 * time.Second
	// maxTransaction is how many rules are deleted at once: the kernel confirms
	// each, in a buffer that must have room for all.
	maxTransaction = 64
)

// masquerade keeps the static rules in place.
type masquerade struct {
	rules   sync.Mutex // a listing must not meet a change of our own
	mu      sync.Mutex
	subnets []netip.Prefix // what there are rules for; nil before the first pod
	checked time.Time
	works   bool // nftables can masquerade; false is not conclusive
}

// usable tries nftables out, in a transaction that changes nothing.
func (m *masquerade) usable() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.works {
		return true
	}
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: ownTable + "-probe"})
	chain := conn.AddChain(natChain(table))
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	conn.DelTable(table)
	m.works = conn.Flush() == nil
	return m.works
}

// ensure makes sure that the subnets are masqueraded.
func (m *masquerade) ensure(subnets []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Equal(m.subnets, subnets) && time.Since(m.checked) < masqRecheck {
		return nil
	}
	if err := ensureOwnTable(subnets); err != nil {
		return err
	}
	m.subnets, m.checked = slices.Clone(subnets), time.Now()
	return nil
}

// recheck puts back rules that somebody removed, for example by
// `nft flush ruleset`.
func (m *masquerade) recheck() error {
	m.mu.Lock()
	subnets := m.subnets
	m.mu.Unlock()
	if subnets == nil {
		return nil
	}
	return m.ensure(subnets)
}

// remove takes the rules away once no pod is on the embedded network any more.
func (m *masquerade) remove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// Deleting what is not there is an error; adding what is there is none.
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: ownTable})
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", ownTable, err)
	}
	m.subnets = nil
	return nil
}

// ensureOwnTable replaces the whole table, in one transaction, unless its rules
// are there.
func ensureOwnTable(subnets []netip.Prefix) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: ownTable}
	var have, want []string
	rules, err := conn.GetRules(table, natChain(table))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("list masquerade rules: %w", err)
	}
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		have = append(have, comment)
	}
	for _, s := range subnets {
		want = append(want, ownComment(s))
	}
	if slices.Equal(have, want) {
		return nil
	}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	chain := conn.AddChain(natChain(table))
	for _, s := range subnets {
		conn.AddRule(&nftables.Rule{
			Table: table, Chain: chain,
			UserData: userdata.AppendString(nil, userdata.TypeComment, ownComment(s)),
			Exprs: slices.Concat(
				match(s.Addr(), source, s, expr.CmpOpEq),
				match(s.Addr(), destination, s, expr.CmpOpNeq),
				match(s.Addr(), destination, multicast(s.Addr()), expr.CmpOpNeq),
				[]expr.Any{&expr.Masq{}}),
		})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install masquerade rules: %w", err)
	}
	return nil
}

func ownComment(s netip.Prefix) string { return "cri-node pods " + s.String() }

func natChain(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{
		Name: postrouting, Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
}

func multicast(family netip.Addr) netip.Prefix {
	if family.Is4() {
		return netip.MustParsePrefix("224.0.0.0/4")
	}
	return netip.MustParsePrefix("ff00::/8")
}

// direction selects an address of a packet.
type direction int

const (
	source direction = iota
	destination
)

// match compares a packet's address with a prefix. In a table of both families
// the packet's family comes first.
func match(family netip.Addr, d direction, p netip.Prefix, op expr.CmpOp) []expr.Any {
	proto, offset, size := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if family.Is6() {
		proto, offset, size = byte(unix.NFPROTO_IPV6), 8, 16
	}
	if d == destination {
		offset += size
	}
	mask := net.CIDRMask(p.Bits(), int(size)*8)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// masquerade hides the pod's addresses behind the host's for packets that leave
// its subnets.
func (c *call) masquerade(conf *bridgeConf, r *current.Result) error {
	var subnets []netip.Prefix
	var nets []*net.IPNet
	for _, p := range r.IPs {
		prefix, err := toPrefix(&p.Address)
		if err != nil {
			return err
		}
		subnets, nets = append(subnets, prefix.Masked()), append(nets, &p.Address)
	}
	switch {
	case c.embedded() && c.op.n.masq.usable():
		return c.op.n.masq.ensure(subnets)
	case c.podRules(conf):
		return c.op.n.masq.addPodRules(conf.Name, c.ifname, c.id, nets)
	}
	return ip.SetupIPMasqForNetworks(conf.IPMasqBackend, nets, conf.Name, c.ifname, c.id)
}

// unmasquerade removes the pod's own rules, if it has any.
func (c *call) unmasquerade(conf *bridgeConf, nets []*net.IPNet) error {
	if !c.op.rec.InProcess {
		// The real plugin was here, and chose by rules of its own.
		return ip.TeardownIPMasqForNetworks(nets, conf.Name, c.ifname, c.id)
	}
	switch {
	case c.embedded() && c.op.n.masq.usable():
		return nil
	case c.podRules(conf):
		return c.op.n.masq.deletePodRules(podRulePrefix(conf.Name, c.ifname, c.id), nil)
	}
	return ip.TeardownIPMasqForNetworks(nets, conf.Name, c.ifname, c.id)
}

// podRules reports whether the pod's rules are made here. The plugin prefers
// iptables where the configuration leaves the choice, at nine executions for
// each address.
func (c *call) podRules(conf *bridgeConf) bool {
	if conf.IPMasqBackend != nil {
		return *conf.IPMasqBackend == "nftables"
	}
	return c.op.n.masq.usable()
}

func toPrefix(n *net.IPNet) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("bad address %v", n)
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), nil
}

// addPodRules makes the rules of one pod and what they hang on.
func (m *masquerade) addPodRules(network, ifname, id string, nets []*net.IPNet) error {
	m.rules.Lock()
	defer m.rules.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: pluginTable})
	checks := conn.AddChain(&nftables.Chain{Name: pluginChain, Table: table})
	base := conn.AddChain(natChain(table))
	conn.FlushChain(base)
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: append(
			match(family, destination, multicast(family), expr.CmpOpEq),
			&expr.Verdict{Kind: expr.VerdictReturn})})
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: pluginChain}}})
	comment := podRulePrefix(network, ifname, id) + fmt.Sprintf(", net: %s, if: %s, id: %s", network, ifname, id)
	comment = comment[:min(len(comment), maxNFTComment)]
	for _, n := range nets {
		p, err := toPrefix(n)
		if err != nil {
			return err
		}
		host := netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		conn.AddRule(&nftables.Rule{
			Table: table, Chain: checks,
			UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
			Exprs: slices.Concat(
				match(p.Addr(), source, host, expr.CmpOpEq),
				match(p.Addr(), destination, p, expr.CmpOpNeq),
				[]expr.Any{&expr.Masq{}}),
		})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add masquerade rules: %w", err)
	}
	return nil
}

// deletePodRules removes the rules whose comment begins with prefix, but for
// those keep wants; a nil keep wants none. It looks until a whole list shows none:
// one that another change of the ruleset interrupts can miss rules, and a rule
// that somebody else deletes first takes the whole transaction down.
func (m *masquerade) deletePodRules(prefix string, keep func(comment string) bool) error {
	m.rules.Lock()
	defer m.rules.Unlock()
	for {
		rules, whole, err := listRules(pluginTable, pluginChain)
		if err != nil {
			return fmt.Errorf("list masquerade rules: %w", err)
		}
		rules = slices.DeleteFunc(rules, func(r rule) bool {
			return !strings.HasPrefix(r.comment, prefix) || (keep != nil && keep(r.comment))
		})
		if len(rules) == 0 && whole {
			return nil
		}
		for some := range slices.Chunk(rules, maxTransaction) {
			if err := deleteRules(pluginTable, pluginChain, some); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete masquerade rules: %w", err)
			}
		}
	}
}

// deleteRules deletes all of the rules, or none.
func deleteRules(table, chain string, rules []rule) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: table}
	for _, r := range rules {
		if err := conn.DelRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chain, Table: t}, Handle: r.handle}); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// gcPodRules removes the rules of pods that keep does not know.
func (m *masquerade) gcPodRules(network string, keep func(id string) bool) error {
	prefix := utils.MustFormatHashWithPrefix(16, "", network) + "-"
	return m.deletePodRules(prefix, func(comment string) bool {
		_, id, ok := strings.Cut(comment, ", id: ")
		// A comment that was cut short does not tell whose it is.
		return !ok || len(comment) >= maxNFTComment || keep(id)
	})
}

// podRulePrefix is how the plugins find a pod's rules again.
func podRulePrefix(network, ifname, id string) string {
	return utils.MustFormatHashWithPrefix(16, "", network) + "-" + utils.MustFormatHashWithPrefix(16, "", ifname+":"+id)
}
