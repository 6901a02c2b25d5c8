package invariant

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

var addressPattern = regexp.MustCompile(`[0-9a-fA-F]*[.:][0-9a-fA-F.:]+(/[0-9]+)?`)

// rules finds packet filter rules that name an object of the node's network, or a
// single address of its subnets. Empty chains that plugins keep for all pods are no rules.
func rules(c Config) ([]Fact, error) {
	var found []Fact
	for _, command := range [][]string{
		{"nft", "list", "ruleset"},
		{"iptables", "-t", "nat", "-S"},
		{"ip6tables", "-t", "nat", "-S"},
		{"iptables", "-t", "filter", "-S"},
	} {
		out, err := exec.Command(command[0], command[1:]...).Output()
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && command[0] != "nft" {
			continue // a kernel without the table
		} else if err != nil {
			return nil, fmt.Errorf("run %s: %w", command[0], err)
		}
		for line := range strings.Lines(string(out)) {
			f := fact(Rule, command[0]+": "+strings.TrimSpace(line))
			named := c.Network != "" && strings.Contains(line, c.Network) && len(f.IDs) > 0
			if named || slices.ContainsFunc(c.Subnets, func(s netip.Prefix) bool { return names(line, s) }) {
				found = append(found, f)
			}
		}
	}
	return found, nil
}

// names reports whether a rule names one address of the subnet, other than its
// gateway; the subnet as a whole may stay in a rule.
func names(line string, subnet netip.Prefix) bool {
	for _, word := range addressPattern.FindAllString(line, -1) {
		word = strings.TrimSuffix(strings.TrimSuffix(word, "/32"), "/128")
		a, err := netip.ParseAddr(word)
		if err != nil {
			// "10.0.0.2:80" in a DNAT target
			ap, err := netip.ParseAddrPort(word)
			if err != nil {
				continue
			}
			a = ap.Addr()
		}
		if subnet.Contains(a) && a != subnet.Masked().Addr() && a != subnet.Masked().Addr().Next() {
			return true
		}
	}
	return false
}
