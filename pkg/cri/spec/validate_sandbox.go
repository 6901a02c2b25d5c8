package spec

import (
	"fmt"
	"net/netip"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxHostname is what the kernel takes.
	maxHostname = 64
	// Limits of Kubernetes for a pod's DNS, with some room for servers.
	maxDNSServers, maxDNSSearches, maxDNSOptions = 16, 32, 64
	maxDNSName                                   = 2048
)

// ValidateSandbox checks the configuration of RunPodSandbox, before anything
// is made. Sysctls are checked for their shape only: which of them a pod may
// set depends on its namespaces and is decided where they are written.
func ValidateSandbox(cfg *runtimeapi.PodSandboxConfig) error {
	if cfg == nil {
		return invalid("config", "is missing")
	}
	m := cfg.GetMetadata()
	if m == nil {
		return invalid("config.metadata", "is missing")
	}
	for _, n := range []struct{ field, value string }{
		{"config.metadata.name", m.GetName()},
		{"config.metadata.uid", m.GetUid()},
		{"config.metadata.namespace", m.GetNamespace()},
	} {
		if err := validateName(n.field, n.value); err != nil {
			return err
		}
	}
	if err := validateMaps("config", cfg.GetLabels(), cfg.GetAnnotations()); err != nil {
		return err
	}
	if err := validateHostname(cfg.GetHostname()); err != nil {
		return err
	}
	if dir := cfg.GetLogDirectory(); dir != "" {
		if err := validateHostPath("config.log_directory", dir); err != nil {
			return err
		}
	}
	if err := validateDNS(cfg.GetDnsConfig()); err != nil {
		return err
	}
	if err := validatePortMappings(cfg.GetPortMappings()); err != nil {
		return err
	}
	return validateSandboxLinux(cfg.GetLinux())
}

// validateHostname refuses what would be more than one line or word in
// /etc/hosts and /etc/hostname. Empty is legal.
func validateHostname(name string) error {
	if len(name) > maxHostname {
		return invalid("config.hostname", "is longer than %d bytes", maxHostname)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
		if !letter && (i == 0 || (r != '-' && r != '.')) {
			return invalid("config.hostname", "%s: the character %q is not allowed there", quote(name), r)
		}
	}
	return nil
}

// validateDNS keeps each entry one word of one line of resolv.conf.
func validateDNS(dns *runtimeapi.DNSConfig) error {
	const field = "config.dns_config"
	for _, l := range []struct {
		name   string
		values []string
		most   int
	}{
		{"servers", dns.GetServers(), maxDNSServers},
		{"searches", dns.GetSearches(), maxDNSSearches},
		{"options", dns.GetOptions(), maxDNSOptions},
	} {
		if len(l.values) > l.most {
			return invalid(field+"."+l.name, "has more than %d entries", l.most)
		}
		for i, v := range l.values {
			at := fmt.Sprintf("%s.%s[%d]", field, l.name, i)
			if v == "" || len(v) > maxDNSName || hasControl(v) || strings.ContainsAny(v, " \u0085\u00a0#;") {
				return invalid(at, "%s is not one word", quote(v))
			}
			if l.name != "servers" {
				continue
			}
			if _, err := netip.ParseAddr(v); err != nil {
				return invalid(at, "%s is no IP address", quote(v))
			}
		}
	}
	return nil
}

// validatePortMappings checks mappings, also those without a host port, which
// map nothing.
func validatePortMappings(mappings []*runtimeapi.PortMapping) error {
	if len(mappings) > maxPortMappings {
		return invalid("config.port_mappings", "more than %d mappings", maxPortMappings)
	}
	type key struct {
		protocol runtimeapi.Protocol
		ip       string
		port     int32
	}
	seen := make(map[key]bool, len(mappings))
	for i, m := range mappings {
		field := fmt.Sprintf("config.port_mappings[%d]", i)
		if _, ok := runtimeapi.Protocol_name[int32(m.GetProtocol())]; !ok {
			return invalid(field+".protocol", "%d is unknown", m.GetProtocol())
		}
		if p := m.GetHostPort(); p < 0 || p > 65535 {
			return invalid(field+".host_port", "%d is not in 0..65535", p)
		}
		if p := m.GetContainerPort(); p < 0 || p > 65535 || (p == 0 && m.GetHostPort() > 0) {
			return invalid(field+".container_port", "%d is not in 1..65535", p)
		}
		if ip := m.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				return invalid(field+".host_ip", "%s is no IP address", quote(ip))
			}
		}
		k := key{m.GetProtocol(), m.GetHostIp(), m.GetHostPort()}
		if k.port > 0 && seen[k] {
			return invalid(field+".host_port", "%d is mapped twice", k.port)
		}
		seen[k] = true
	}
	return nil
}

func validateSandboxLinux(l *runtimeapi.LinuxPodSandboxConfig) error {
	if err := validateCgroupParent(l.GetCgroupParent()); err != nil {
		return err
	}
	for k, v := range l.GetSysctls() {
		field := "config.linux.sysctls"
		if k == "" || len(k) > maxName || hasControl(k) || strings.ContainsAny(k, " =") {
			return invalid(field, "%s is no sysctl", quote(k))
		}
		// Some sysctls are lists that tabs separate.
		if len(v) > 4096 || hasControl(strings.ReplaceAll(v, "\t", "")) {
			return invalid(field, "value of %s has control characters or is too long", quote(k))
		}
	}
	if err := ValidateSandboxResources("config.linux.", l.GetOverhead(), l.GetResources()); err != nil {
		return err
	}
	return validateSandboxSecurity(l.GetSecurityContext())
}

// ValidateSandboxResources checks the limits of a pod, which are sums that are
// only shown, so that the machine does not matter. prefix begins the fields'
// names.
func ValidateSandboxResources(prefix string, overhead, resources *runtimeapi.LinuxContainerResources) error {
	if err := validateResourceSums(prefix+"overhead", overhead); err != nil {
		return err
	}
	return validateResourceSums(prefix+"resources", resources)
}

// validateCgroupParent accepts a path below the root of the hierarchy, or the
// name of a slice.
func validateCgroupParent(p string) error {
	const field = "config.linux.cgroup_parent"
	if p == "" {
		return nil
	}
	if err := checkPathText(field, p); err != nil {
		return err
	}
	if strings.Trim(p, "/.") == "" || hasDotDot(p) || strings.Contains(p, ":") {
		return invalid(field, "%s is no cgroup below the root", quote(p))
	}
	return nil
}

func validateSandboxSecurity(sc *runtimeapi.LinuxSandboxSecurityContext) error {
	const field = fieldSandboxSecurity
	for _, id := range []struct {
		name string
		id   *runtimeapi.Int64Value
	}{{"run_as_user", sc.GetRunAsUser()}, {"run_as_group", sc.GetRunAsGroup()}} {
		if id.id == nil {
			continue
		}
		if err := validateID(field+"."+id.name, id.id.GetValue()); err != nil {
			return err
		}
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid(field+".run_as_group", "needs run_as_user")
	}
	if err := validateGroups(field, sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	if err := validateNamespaces(field+".namespace_options", sc.GetNamespaceOptions(), runtimeapi.NamespaceMode_CONTAINER); err != nil {
		return err
	}
	if err := validateOwnedNamespaces(field+".namespace_options", sc.GetNamespaceOptions()); err != nil {
		return err
	}
	if err := validateSELinux(field+".selinux_options", sc.GetSelinuxOptions()); err != nil {
		return err
	}
	//nolint:staticcheck // clients still send the deprecated field
	if err := validateSeccomp(parseProfile(field+".seccomp", sc.GetSeccomp(), field+".seccomp_profile_path", sc.GetSeccompProfilePath())); err != nil {
		return err
	}
	return validateAppArmor(parseProfile(field+".apparmor", sc.GetApparmor(), "", ""))
}

// validateSeccomp takes the results of parseProfile.
func validateSeccomp(p profile, err error) error {
	if err != nil || p.ref == "" {
		return err
	}
	return validateHostPath(p.field, p.ref)
}

// validateAppArmor takes the results of parseProfile.
func validateAppArmor(p profile, err error) error {
	if err != nil || p.ref == "" {
		return err
	}
	if hasControl(p.ref) || len(p.ref) > 4096 {
		return invalid(p.field, "%s is no name of a profile", quote(p.ref))
	}
	return nil
}
