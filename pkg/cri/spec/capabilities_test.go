package spec

import (
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCapabilities(t *testing.T) {
	without := func(names ...string) []string {
		return slices.DeleteFunc(allCaps(), func(n string) bool { return slices.Contains(names, n) })
	}
	list := func(names ...string) []string {
		s := capabilitySet{}
		s.add(names...)
		return s.list()
	}
	type request = runtimeapi.Capability
	tests := []struct {
		name       string
		base, host []string
		request    *request
		privileged bool
		want       []string
		ambient    []string
		warnings   int
	}{
		{name: "default", want: list(DefaultCapabilities()...)},
		{name: "operator's", base: []string{"net_raw"}, want: list("NET_RAW")},
		{name: "operator's none", base: []string{}, want: list()},
		{name: "add in any form", request: &request{AddCapabilities: []string{"cap_net_admin", "NET_RAW", "Sys_Time"}}, want: list(append(DefaultCapabilities(), "NET_ADMIN", "NET_RAW", "SYS_TIME")...)},
		{name: "drop", base: []string{"CHOWN", "KILL"}, request: &request{DropCapabilities: []string{"kill", "NET_ADMIN"}}, want: list("CHOWN")},
		{name: "drop all", request: &request{DropCapabilities: []string{"ALL"}}, want: list()},
		{name: "drop all add one", request: &request{DropCapabilities: []string{"all"}, AddCapabilities: []string{"CHOWN"}}, want: list("CHOWN")},
		{name: "add all", request: &request{AddCapabilities: []string{"ALL"}}, want: allCaps()},
		{name: "add all drop one", request: &request{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"CHOWN"}}, want: without("CAP_CHOWN")},
		{name: "both all", request: &request{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"ALL"}}, want: list()},
		{name: "add and drop the same", base: []string{}, request: &request{AddCapabilities: []string{"CHOWN"}, DropCapabilities: []string{"CHOWN"}}, want: list()},
		{name: "ambient", base: []string{"CHOWN"}, request: &request{AddAmbientCapabilities: []string{"NET_RAW"}}, want: list("CHOWN", "NET_RAW"), ambient: list("NET_RAW")},
		{name: "ambient dropped", base: []string{"CHOWN"}, request: &request{AddAmbientCapabilities: []string{"NET_RAW"}, DropCapabilities: []string{"NET_RAW"}}, want: list("CHOWN")},
		{name: "ambient all", request: &request{AddAmbientCapabilities: []string{"ALL"}}, want: allCaps(), ambient: allCaps()},
		{name: "drop all add ambient", request: &request{AddAmbientCapabilities: []string{"NET_RAW"}, DropCapabilities: []string{"ALL"}}, want: list("NET_RAW"), ambient: list("NET_RAW")},
		{name: "not on this machine", host: without("CAP_SYS_RESOURCE"), base: []string{}, request: &request{AddCapabilities: []string{"SYS_RESOURCE"}}, want: list(), warnings: 1},
		{name: "ambient not on this machine", host: without("CAP_SYS_RESOURCE"), base: []string{}, request: &request{AddAmbientCapabilities: []string{"SYS_RESOURCE"}}, want: list(), warnings: 1},
		{name: "all there is", host: without("CAP_SYS_RESOURCE"), request: &request{AddCapabilities: []string{"ALL"}}, want: without("CAP_SYS_RESOURCE")},
		{name: "privileged", host: without("CAP_SYS_RESOURCE"), privileged: true, request: &request{DropCapabilities: []string{"ALL"}}, want: without("CAP_SYS_RESOURCE")},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			if tc.host != nil {
				in.Host.Capabilities = tc.host
			}
			if tc.privileged {
				in.privileged()
				in.Defaults.PrivilegedWithoutHostDevices = true
			}
			in.Defaults.Capabilities = tc.base
			in.security().Capabilities = tc.request
			out := build(t, in)
			c := out.Spec.Process.Capabilities
			for name, set := range map[string][]string{"bounding": c.Bounding, "effective": c.Effective, "permitted": c.Permitted} {
				if !slices.Equal(set, tc.want) {
					t.Errorf("%s is %v, want %v", name, set, tc.want)
				}
			}
			for name, set := range map[string][]string{"ambient": c.Ambient, "inheritable": c.Inheritable} {
				if !slices.Equal(set, tc.ambient) {
					t.Errorf("%s is %v, want %v", name, set, tc.ambient)
				}
			}
			if len(out.Warnings) != tc.warnings {
				t.Errorf("warnings are %q, want %d", out.Warnings, tc.warnings)
			}
		})
	}
}

func TestHostCapabilities(t *testing.T) {
	caps, err := HostCapabilities()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range caps {
		if !strings.HasPrefix(c, "CAP_") || !slices.Contains(allCaps(), c) {
			t.Errorf("%q is no name of a capability", c)
		}
	}
}
