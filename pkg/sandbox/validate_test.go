package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// separators are bytes and characters that end a line or a word for somebody.
var separators = []string{"\n", "\r", "\x00", "\t", " ", "\v", "\x1b", "\u0085", "\u2028", "\u2029", "\u202e", "\xff"}

func TestHostnames(t *testing.T) {
	for name, fine := range map[string]bool{
		"": true, "a": true, "web-0": true, "a_b": true, "web-0.shop.svc.cluster.local": true,
		// setHostnameAsFQDN in a cluster without a domain
		"web-0.sub.shop.svc.": true,
		".":                   false, "a..": false, "-a": false, "a-": false, ".a": false, "a b": false, "a\n": false, "a.\n": false,
		strings.Repeat("a", 64): true, strings.Repeat("a", 64) + ".": false,
	} {
		if err := validateHostname(name); (err == nil) != fine || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestHostileRequestsHaveNoEffect(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	hosts := map[string]string{}
	for _, path := range []string{"kernel/core_pattern", "net/ipv4/ip_forward", "kernel/shm_rmid_forced", "kernel/hostname"} {
		hosts[path], _ = readSysctl(path)
	}
	tests := map[string]func(*Params){
		"hostname too long":    func(p *Params) { p.Hostname = strings.Repeat("a", 65) },
		"hostname slash":       func(p *Params) { p.Hostname = "a/b" },
		"hostname dash":        func(p *Params) { p.Hostname = "-rf" },
		"dns server name":      func(p *Params) { p.DNS = &DNS{Servers: []string{"dns.example"}} },
		"dns server empty":     func(p *Params) { p.DNS = &DNS{Servers: []string{""}} },
		"dns searches":         func(p *Params) { p.DNS = &DNS{Searches: many(100)} },
		"dns search bytes":     func(p *Params) { p.DNS = &DNS{Searches: []string{strings.Repeat("a", 256)}} },
		"dns servers":          func(p *Params) { p.DNS = &DNS{Servers: many(33)} },
		"dns options":          func(p *Params) { p.DNS = &DNS{Options: many(65)} },
		"shm negative":         func(p *Params) { p.ShmSize = -1 },
		"extra host":           func(p *Params) { p.ExtraHosts = []string{"10.0.0.1"} },
		"extra host address":   func(p *Params) { p.ExtraHosts = []string{"host x"} },
		"extra host zone":      func(p *Params) { p.ExtraHosts = []string{"fe80::1%eth0 x"} },
		"extra host name":      func(p *Params) { p.ExtraHosts = []string{"10.0.0.1 -x"} },
		"extra host lines":     func(p *Params) { p.ExtraHosts = []string{"10.0.0.1 x\n10.0.0.2 y"} },
		"extra hosts many":     func(p *Params) { p.ExtraHosts = make([]string, 5000) },
		"no network, ports":    func(p *Params) { p.NoNetwork = true; p.PortMappings = ports(80, 80, "tcp", "") },
		"no network, host's":   func(p *Params) { p.NoNetwork, p.HostNetwork = true, true },
		"port too big":         func(p *Params) { p.PortMappings = ports(65536, 80, "tcp", "") },
		"port negative":        func(p *Params) { p.PortMappings = ports(-1, 80, "tcp", "") },
		"container port zero":  func(p *Params) { p.PortMappings = ports(80, 0, "tcp", "") },
		"port protocol":        func(p *Params) { p.PortMappings = ports(80, 80, "icmp", "") },
		"port host ip":         func(p *Params) { p.PortMappings = ports(80, 80, "tcp", "localhost") },
		"port host ip newline": func(p *Params) { p.PortMappings = ports(80, 80, "tcp", "fe80::1%\n") },
		"port twice": func(p *Params) {
			p.PortMappings = append(ports(80, 80, "tcp", ""), ports(80, 81, "TCP", "0.0.0.0")...)
		},
		"ports many":                 func(p *Params) { p.PortMappings = make([]network.PortMapping, 10000) },
		"sysctl not namespaced":      sysctlTest("kernel.core_pattern", "|/x"),
		"sysctl CVE-2022-0811":       sysctlTest("kernel.shm_rmid_forced", "1\n+kernel.core_pattern=|/x"),
		"sysctl hostname":            sysctlTest("kernel.hostname", "x"),
		"sysctl dots":                sysctlTest("net/../kernel/core_pattern", "x"),
		"sysctl dots mixed":          sysctlTest("net.//.kernel.core_pattern", "x"),
		"sysctl absolute":            sysctlTest("/net/ipv4/ip_forward", "1"),
		"sysctl empty part":          sysctlTest("net..ipv4", "1"),
		"sysctl no part":             sysctlTest("net", "1"),
		"sysctl trailing":            sysctlTest("net.ipv4.", "1"),
		"sysctl empty":               sysctlTest("", "1"),
		"sysctl prefix is not below": sysctlTest("kernel.shm_x/core_pattern", "1"),
		"sysctl shm deeper":          sysctlTest("kernel/shm/x", "1"),
		"sysctl network lookalike":   sysctlTest("network.x", "1"),
		"sysctl huge value":          sysctlTest("net.ipv4.ip_forward", strings.Repeat("1", 1<<20)),
		"sysctl huge key":            sysctlTest("net."+strings.Repeat("a", 1<<20), "1"),
		"sysctl NUL key":             sysctlTest("net.ipv4\x00", "1"),
		"sysctl does not exist":      sysctlTest("net.ipv4.no_such_thing", "1"),
		"sysctl is a directory":      sysctlTest("net.ipv4", "1"),
		"sysctl bad value":           sysctlTest("net.ipv4.ip_unprivileged_port_start", "1+kernel.core_pattern=|/x"),
		"sysctl net of host": func(p *Params) {
			p.HostNetwork, p.Sysctls = true, map[string]string{"net.ipv4.ip_forward": "1"}
		},
		"sysctl ipc of host": func(p *Params) {
			p.HostIPC, p.Sysctls = true, map[string]string{"kernel.shm_rmid_forced": "1"}
		},
		"sysctl mqueue of host": func(p *Params) {
			p.HostIPC, p.Sysctls = true, map[string]string{"fs/mqueue/msg_max": "1"}
		},
	}
	for _, sep := range separators {
		tests[fmt.Sprintf("hostname %q", sep)] = func(p *Params) { p.Hostname = "a" + sep + "b" }
		tests[fmt.Sprintf("hostname end %q", sep)] = func(p *Params) { p.Hostname = "a" + sep }
		tests[fmt.Sprintf("dns search %q", sep)] = func(p *Params) { p.DNS = &DNS{Searches: []string{"a" + sep + "nameserver 6.6.6.6"}} }
		tests[fmt.Sprintf("dns option %q", sep)] = func(p *Params) { p.DNS = &DNS{Options: []string{"a" + sep + "b"}} }
		tests[fmt.Sprintf("dns server %q", sep)] = func(p *Params) { p.DNS = &DNS{Servers: []string{"fe80::1%a" + sep + "b"}} }
		tests[fmt.Sprintf("sysctl key %q", sep)] = sysctlTest("net.ipv4.ip"+sep+"forward", "1")
		if sep != "\t" && sep != " " {
			tests[fmt.Sprintf("sysctl value %q", sep)] = sysctlTest("net.ipv4.ip_forward", "1"+sep+"1")
		}
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			p := params("evil")
			change(&p)
			if _, err := m.Create(t.Context(), "evil", p); !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, id := range []string{"", ".", "..", "a/b", "../x", "-a", ".trash-a", "a\n", "a.b", strings.Repeat("a", 129)} {
		if _, err := m.Create(t.Context(), id, params("x")); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	for path, want := range hosts {
		if got, _ := readSysctl(path); got != want {
			t.Errorf("the host's %s is %q, was %q", path, got, want)
		}
	}
	n.clean(t, m)
}

func many(n int) []string {
	words := make([]string, n)
	for i := range words {
		words[i] = fmt.Sprintf("10.0.0.%d", i)
	}
	return words
}

func ports(host, container int32, protocol, ip string) []network.PortMapping {
	return []network.PortMapping{{HostIP: ip, HostPort: host, ContainerPort: container, Protocol: protocol}}
}

func sysctlTest(key, value string) func(*Params) {
	return func(p *Params) { p.Sysctls = map[string]string{key: value} }
}

// Names of a pod that are hostile must neither fail nor come out as they are.
func TestFitHostname(t *testing.T) {
	for in, want := range map[string]string{
		"web-0":                        "web-0",
		"a\nb":                         "a-b",
		"../../etc":                    "etc",
		"---":                          "",
		"":                             "",
		"ünïcode":                      "n-code",
		strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		got := fitHostname(in)
		if got != want || (got != "" && validateHostname(got) != nil) {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestSysctls(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	host, err := readSysctl("net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	forward := "1"
	if strings.TrimSpace(host) == "1" {
		forward = "0"
	}
	p := params("s")
	p.Sysctls = map[string]string{
		"net.ipv4.ip_forward":                 forward,
		"net/ipv4/ip_unprivileged_port_start": "1000",
		"net.ipv4.ip_local_port_range":        "2000\t3001",
		"net.ipv4.ip_local_reserved_ports":    "",
		"kernel.shm_rmid_forced":              "1",
		"kernel.sem":                          "250 32000 32 129",
		"kernel.msgmax":                       "4096",
	}
	if _, err := os.Stat("/proc/sys/fs/mqueue"); err == nil {
		p.Sysctls["fs.mqueue.msg_max"] = "11"
	}
	st := ready(t, m, "s", p).Status()
	inside(t, st.Namespaces, func() error {
		for path, want := range map[string]string{
			"net/ipv4/ip_forward":                 forward,
			"net/ipv4/ip_unprivileged_port_start": "1000",
			"net/ipv4/ip_local_port_range":        "2000\t3001",
			"kernel/shm_rmid_forced":              "1",
			"kernel/sem":                          "250\t32000\t32\t129",
			"kernel/msgmax":                       "4096",
		} {
			if got, err := readSysctl(path); err != nil || strings.TrimSpace(got) != want {
				t.Errorf("%s is %q %v, want %q", path, got, err, want)
			}
		}
		return nil
	})
	if got, _ := readSysctl("net/ipv4/ip_forward"); got != host {
		t.Errorf("the host's ip_forward changed to %q", got)
	}
	remove(t, m, "s")
	n.clean(t, m)
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.conf.eth0/100.forwarding": "net/ipv4/conf/eth0.100/forwarding",
		"net/ipv4/conf/eth0.100/forwarding": "net/ipv4/conf/eth0.100/forwarding",
		"kernel.sem":                        "kernel/sem",
	} {
		parts, ok := sysctlPath(key)
		if got := strings.Join(parts, "/"); !ok || got != want {
			t.Errorf("%q became %q, want %q", key, got, want)
		}
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4.ip_forward")
	f.Add("net/../kernel/core_pattern")
	f.Add("net.//.x")
	f.Fuzz(func(t *testing.T, key string) {
		s, err := parseSysctl(key, "1", Params{})
		if err != nil {
			return
		}
		for part := range strings.SplitSeq(s.path, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\n") {
				t.Errorf("%q became %q", key, s.path)
			}
		}
		if !strings.HasPrefix(s.path, "net/") && !strings.HasPrefix(s.path, "kernel/s") &&
			!strings.HasPrefix(s.path, "kernel/msg") && !strings.HasPrefix(s.path, "fs/mqueue/") {
			t.Errorf("%q is allowed as %q", key, s.path)
		}
	})
}
