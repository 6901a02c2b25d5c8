package network

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// Many rules take several parts of a dump.
func TestPodRules(t *testing.T) {
	if rules, whole, err := listRules("none-such", "none"); len(rules) != 0 || !whole || err != nil {
		t.Errorf("without a table: %v, %v, %v", rules, whole, err)
	}
	m := &masquerade{}
	const pods = 300
	name := func(i int) string { return fmt.Sprintf("pod-%d", i) }
	for i := range pods {
		nets := []*net.IPNet{
			{IP: net.IPv4(10, 9, byte(i>>8), byte(i)), Mask: net.CIDRMask(16, 32)},
			{IP: net.ParseIP(fmt.Sprintf("fd09::%x", i+1)), Mask: net.CIDRMask(64, 128)},
		}
		if err := m.addPodRules("list", "eth0", name(i), nets); err != nil {
			t.Fatal(err)
		}
	}
	ofPod := func(i int) int {
		t.Helper()
		rules, whole, err := listRules(pluginTable, pluginChain)
		if err != nil || !whole {
			t.Fatal(whole, err)
		}
		return len(slices.DeleteFunc(rules, func(r rule) bool {
			return r.handle == 0 || !strings.HasSuffix(r.comment, ", id: "+name(i))
		}))
	}
	for _, i := range []int{0, 17, pods - 1} {
		if n := ofPod(i); n != 2 {
			t.Errorf("%d rules of %s", n, name(i))
		}
		if err := m.deletePodRules(podRulePrefix("list", "eth0", name(i)), nil); err != nil {
			t.Error(err)
		}
		if n := ofPod(i); n != 0 {
			t.Errorf("%d rules of %s are left", n, name(i))
		}
	}
	if err := m.gcPodRules("list", func(id string) bool { return id == name(1) }); err != nil {
		t.Error(err)
	}
	if rules, _, err := listRules(pluginTable, pluginChain); len(rules) != 2 || ofPod(1) != 2 || err != nil {
		t.Errorf("%d rules are left, %v", len(rules), err)
	}
	if err := m.gcPodRules("list", func(string) bool { return false }); err != nil {
		t.Error(err)
	}
}

func TestParseRules(t *testing.T) {
	for _, bad := range []string{
		"\x0f\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",                                 // shorter than its header
		"\xff\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",                                 // longer than what there is
		"\x10\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",                                 // an error without a number
		"\x10\x00\x00\x00\x06\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",                                 // a rule without a header
		"\x18\x00\x00\x00\x06\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x03\x00\x01\x00", // an attribute shorter than its header
		"\x18\x00\x00\x00\x06\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x09\x00\x01\x00", // and one longer than the rule
		"\x18\x00\x00\x00\x06\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x04\x00\x03\x00", // a handle of no bytes
	} {
		if err := new(rulePart).parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
