package sandbox

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// Limits of what a request may hold. glibc reads 3 servers and, since 2.26,
// any number of searches; Kubernetes allows 32 searches of 2048 bytes in all.
const (
	maxDNSServers     = 32
	maxDNSSearches    = 32
	maxDNSSearchBytes = 2048
	maxDNSOptions     = 64
	maxDNSWord        = 255
	maxHostname       = 64 // __NEW_UTS_LEN of the kernel
	maxPortMappings   = 4096
	maxHosts          = 4096
	maxSysctls        = 512
	maxSysctlValue    = 2048 // below the page that /proc/sys takes in one write
)

// idPattern is narrow because an id becomes a directory name: no dot, so that
// it can be neither "..", a temporary file nor trash. A bound in the pattern
// would make it a hundred times as large in memory.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

const maxID = 128

func validID(id string) bool { return len(id) <= maxID && idPattern.MatchString(id) }

// hostnamePattern is what gethostname(2) may safely return to programs that
// put it into files and command lines. A full name may end with the root's dot, as
// kubelet's setHostnameAsFQDN makes it where the cluster has no domain.
var hostnamePattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?$`)

// validate refuses what cannot be built, before anything is.
func validate(id string, p Params) error {
	if !validID(id) {
		return fmt.Errorf("sandbox id %.200q: %w", id, errdefs.ErrInvalidArgument)
	}
	if p.ShmSize < 0 {
		return fmt.Errorf("shm size %d is negative: %w", p.ShmSize, errdefs.ErrInvalidArgument)
	}
	if err := validateNetwork(p); err != nil {
		return err
	}
	if err := validateUserNS(p); err != nil {
		return err
	}
	if err := validateHostname(p.Hostname); err != nil {
		return err
	}
	if err := p.DNS.validate(); err != nil {
		return err
	}
	if err := validatePorts(p.PortMappings); err != nil {
		return err
	}
	if len(p.Sysctls) > maxSysctls {
		return fmt.Errorf("%d sysctls, at most %d: %w", len(p.Sysctls), maxSysctls, errdefs.ErrInvalidArgument)
	}
	for key, value := range p.Sysctls {
		if _, err := parseSysctl(key, value, p); err != nil {
			return err
		}
	}
	return nil
}

// validateNetwork wants ports and the machine's network only where there is a
// network, and lines that make a hosts file.
func validateNetwork(p Params) error {
	if p.NoNetwork && (p.HostNetwork || len(wantedPorts(p.PortMappings)) > 0) {
		return fmt.Errorf("a pod without a network has neither the machine's nor ports on it: %w", errdefs.ErrInvalidArgument)
	}
	return validateHosts("extra hosts", p.ExtraHosts)
}

// validateHosts wants lines of an address and names.
func validateHosts(field string, lines []string) error {
	if len(lines) > maxHosts {
		return fmt.Errorf("%s: %d lines, at most %d: %w", field, len(lines), maxHosts, errdefs.ErrInvalidArgument)
	}
	size := 0
	for i, line := range lines {
		size += len(line)
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) || size > maxHostFile/2 {
			return fmt.Errorf("%s[%d]: %.100q is no address and names, or too much: %w", field, i, line, errdefs.ErrInvalidArgument)
		}
		if addr, err := netip.ParseAddr(fields[0]); fields[0] != HostGateway && (err != nil || addr.Zone() != "") {
			return fmt.Errorf("%s[%d]: %.100q is no address: %w", field, i, fields[0], errdefs.ErrInvalidArgument)
		}
		for _, name := range fields[1:] {
			if len(name) > maxDNSWord || !hostnamePattern.MatchString(name) {
				return fmt.Errorf("%s[%d]: %.100q is no host name: %w", field, i, name, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// validateUserNS wants what the kernel and the rest of this package take for
// granted: a root, and other namespaces that the new one can own. The host's
// processes and its IPC cannot be seen from it.
func validateUserNS(p Params) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("user namespace: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if p.UserNS == nil {
		return nil
	}
	for _, l := range []struct {
		name string
		maps []IDMap
	}{{"uids", p.UserNS.UIDs}, {"gids", p.UserNS.GIDs}} {
		if len(l.maps) != 1 {
			return invalid("%s: %d mappings, not one", l.name, len(l.maps))
		}
		m := l.maps[0]
		if m.ContainerID != 0 || m.HostID == 0 || m.Length == 0 || uint64(m.HostID)+uint64(m.Length) > math.MaxUint32 {
			return invalid("%s: %d ids from %d at %d of the host", l.name, m.Length, m.ContainerID, m.HostID)
		}
	}
	if p.HostPID || p.HostIPC {
		return invalid("the pod uses the host's PID or IPC namespace")
	}
	return nil
}

func validateHostname(name string) error {
	if name != "" && (len(name) > maxHostname || !hostnamePattern.MatchString(name)) {
		return fmt.Errorf("hostname %.200q is not a name of at most %d letters, digits, '-' and '.': %w",
			name, maxHostname, errdefs.ErrInvalidArgument)
	}
	return nil
}

// validate checks each word by itself: a newline in one of them would be a
// line of its own in resolv.conf (the class of CVE-2022-4318).
func (d *DNS) validate() error {
	if d == nil {
		return nil
	}
	for _, l := range []struct {
		field string
		words []string
		limit int
	}{
		{"servers", d.Servers, maxDNSServers},
		{"searches", d.Searches, maxDNSSearches},
		{"options", d.Options, maxDNSOptions},
	} {
		if len(l.words) > l.limit {
			return fmt.Errorf("dns %s: %d of them, at most %d: %w", l.field, len(l.words), l.limit, errdefs.ErrInvalidArgument)
		}
		for _, w := range l.words {
			if len(w) > maxDNSWord || !isWord(w) {
				return fmt.Errorf("dns %s: %.300q is not one printable word: %w", l.field, w, errdefs.ErrInvalidArgument)
			}
		}
	}
	for _, s := range d.Servers {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("dns servers: %q is not an IP address: %w", s, errdefs.ErrInvalidArgument)
		}
	}
	if n := len(strings.Join(d.Searches, " ")); n > maxDNSSearchBytes {
		return fmt.Errorf("dns searches: %d bytes, at most %d: %w", n, maxDNSSearchBytes, errdefs.ErrInvalidArgument)
	}
	return nil
}

// isWord reports whether s is not empty and has nothing that could end a word
// or a line for any reader: no space, no control or format character, none of
// Unicode's line separators, no invalid UTF-8.
func isWord(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// validatePorts checks even mappings that will be ignored for HostNetwork: a
// request that makes no sense is refused in the same way wherever it goes.
func validatePorts(mappings []network.PortMapping) error {
	if len(mappings) > maxPortMappings {
		return fmt.Errorf("port mappings: %d of them, at most %d: %w", len(mappings), maxPortMappings, errdefs.ErrInvalidArgument)
	}
	type slot struct {
		ip       string
		port     int32
		protocol string
	}
	taken := make(map[slot]bool)
	for i, m := range mappings {
		invalid := func(format string, args ...any) error {
			return fmt.Errorf("port mapping %d: %s: %w", i, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
		}
		if m.HostPort < 0 || m.HostPort > 65535 {
			return invalid("host port %d", m.HostPort)
		}
		if m.HostPort == 0 {
			continue
		}
		if m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return invalid("container port %d", m.ContainerPort)
		}
		protocol := strings.ToLower(m.Protocol)
		switch protocol {
		case "":
			protocol = "tcp"
		case "tcp", "udp", "sctp":
		default:
			return invalid("protocol %.50q is not tcp, udp or sctp", m.Protocol)
		}
		ip := ""
		if m.HostIP != "" {
			addr, err := netip.ParseAddr(m.HostIP)
			if err != nil || addr.Zone() != "" {
				return invalid("host ip %.100q is not an IP address", m.HostIP)
			}
			// No address and any IPv4 address ask for the same.
			if addr != netip.IPv4Unspecified() {
				ip = addr.String()
			}
		}
		s := slot{ip, m.HostPort, protocol}
		if taken[s] {
			return invalid("host port %d/%s is mapped twice", m.HostPort, protocol)
		}
		taken[s] = true
	}
	return nil
}

// wantedPorts are the mappings that ask for something.
func wantedPorts(mappings []network.PortMapping) []network.PortMapping {
	var wanted []network.PortMapping
	for _, m := range mappings {
		if m.HostPort > 0 {
			wanted = append(wanted, m)
		}
	}
	return wanted
}
