package network

import (
	"net/netip"
	"testing"
)

func TestMapsTo(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
	for host, want := range map[string]struct{ v4, v6 bool }{
		"":          {true, true},
		"0.0.0.0":   {true, false},
		"127.0.0.1": {true, false},
		"::":        {false, true},
		"::1":       {false, true},
	} {
		all := []PortMapping{{ContainerPort: 1}, {HostIP: host, HostPort: 8080, ContainerPort: 80}}
		if got := mapsTo(all, v4); got != want.v4 {
			t.Errorf("%q maps to %s: %t", host, v4, got)
		}
		if got := mapsTo(all, v6); got != want.v6 {
			t.Errorf("%q maps to %s: %t", host, v6, got)
		}
	}
	if mapsTo([]PortMapping{{ContainerPort: 80}}, v4) {
		t.Error("a port that is not published maps to an address")
	}
}
