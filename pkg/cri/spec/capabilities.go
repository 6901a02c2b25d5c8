package spec

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// allCapabilities is the word for every capability in a request.
const allCapabilities = "ALL"

// HostCapabilities returns the bounding set of this process, which is the most
// that a container can get.
func HostCapabilities() ([]string, error) {
	supported, err := capability.ListSupported()
	if err != nil {
		return nil, fmt.Errorf("list capabilities: %w", err)
	}
	var names []string
	for _, c := range supported {
		bound, err := capability.GetBound(c)
		if err != nil {
			return nil, fmt.Errorf("read bounding set for %s: %w", c, err)
		}
		if bound {
			names = append(names, capabilityName(c.String()))
		}
	}
	return names, nil
}

// capabilityName brings a name, with or without prefix and in any case, into
// the form of the kernel.
func capabilityName(s string) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(s), "CAP_")
}

// knownCapabilities are all capabilities by their kernel's names, in order.
// Callers must not change the list, which is made once.
var knownCapabilities = sync.OnceValue(func() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		names = append(names, capabilityName(c.String()))
	}
	return names
})

// capabilitySet is a set of the kernel's names.
type capabilitySet map[string]bool

func (s capabilitySet) add(names ...string) {
	for _, n := range names {
		s[capabilityName(n)] = true
	}
}

// list returns the set in the kernel's order, and never nil: in the OCI spec
// an absent list is an empty one, but people read it.
func (s capabilitySet) list() []string {
	names := make([]string, 0, len(s))
	for _, n := range knownCapabilities() {
		if s[n] {
			names = append(names, n)
		}
	}
	return names
}

// setCapabilities gives the sets to the process. A capability that this machine
// cannot give is left out with a warning: the runtime would fail on it.
func (b *builder) setCapabilities(context.Context) error {
	host := b.in.Host.Capabilities
	if host == nil {
		var err error
		if host, err = HostCapabilities(); err != nil {
			return err
		}
	}
	possible := capabilitySet{}
	possible.add(host...)

	var bounding, ambient capabilitySet
	if b.sc.GetPrivileged() {
		bounding = capabilitySet{}
		bounding.add(host...)
	} else {
		base := b.in.Defaults.Capabilities
		if base == nil {
			base = DefaultCapabilities()
		}
		bounding, ambient = combineCapabilities(base, b.sc.GetCapabilities())
	}
	for _, name := range bounding.list() {
		if !possible[name] {
			delete(bounding, name)
			delete(ambient, name)
			if !wantsAll(b.sc.GetCapabilities()) {
				b.warn("capability %s cannot be given on this machine", name)
			}
		}
	}
	set := bounding.list()
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:  set,
		Effective: set,
		Permitted: set,
		// Inheritable capabilities reach programs that have file capabilities
		// for them, whoever runs these (CVE-2022-24769). The kernel demands
		// them for ambient ones only.
		Inheritable: ambient.list(),
		Ambient:     ambient.list(),
	}
	return nil
}

func wantsAll(c *runtimeapi.Capability) bool {
	return containsAll(c.GetAddCapabilities()) || containsAll(c.GetAddAmbientCapabilities())
}

// combineCapabilities applies a request to the defaults: ALL first, added ones
// next, dropped ones last, so that "drop ALL, add X" is X and "add ALL, drop X"
// is all but X.
func combineCapabilities(base []string, c *runtimeapi.Capability) (bounding, ambient capabilitySet) {
	bounding, ambient = capabilitySet{}, capabilitySet{}
	bounding.add(base...)
	if containsAll(c.GetAddCapabilities()) {
		bounding.add(knownCapabilities()...)
	}
	if containsAll(c.GetAddAmbientCapabilities()) {
		bounding.add(knownCapabilities()...)
		ambient.add(knownCapabilities()...)
	}
	if containsAll(c.GetDropCapabilities()) {
		clear(bounding)
		clear(ambient)
	}
	for _, n := range c.GetAddCapabilities() {
		if !isAll(n) {
			bounding.add(n)
		}
	}
	for _, n := range c.GetAddAmbientCapabilities() {
		if !isAll(n) {
			bounding.add(n)
			ambient.add(n)
		}
	}
	for _, n := range c.GetDropCapabilities() {
		delete(bounding, capabilityName(n))
		delete(ambient, capabilityName(n))
	}
	return bounding, ambient
}

func isAll(name string) bool {
	return strings.EqualFold(name, allCapabilities)
}

func containsAll(names []string) bool {
	return slices.ContainsFunc(names, isAll)
}

// validateCapabilities refuses names that no kernel knows.
func validateCapabilities(field string, c *runtimeapi.Capability) error {
	lists := []struct {
		name string
		caps []string
	}{
		{"add_capabilities", c.GetAddCapabilities()},
		{"drop_capabilities", c.GetDropCapabilities()},
		{"add_ambient_capabilities", c.GetAddAmbientCapabilities()},
	}
	for _, l := range lists {
		for i, n := range l.caps {
			if !isAll(n) && !slices.Contains(knownCapabilities(), capabilityName(n)) {
				return invalid(fmt.Sprintf("%s.%s[%d]", field, l.name, i), "%s is no capability", quote(n))
			}
		}
	}
	return nil
}
