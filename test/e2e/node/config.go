package node

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say what kind of node to start.
type Options struct {
	Binaries Binaries
	// Number tells nodes apart that run at the same time, 0 to 99.
	Number int
	// DefaultHandler is "runc" when empty.
	DefaultHandler string
	// GateRuntime puts a gate before the default handler's executable, and
	// GateNetwork one at the end of the plugin chain.
	GateRuntime, GateNetwork bool
	// NoConfList leaves the CNI directory empty, so that the daemon's own
	// network is used.
	NoConfList bool
	// Config is TOML that overrides the node's configuration.
	Config string
	// Env is added to the daemon's environment.
	Env []string
	// LogLevel of the daemon; 0 means 4, each request.
	LogLevel int
	// CgroupParent is one for the node's cgroups; "" makes one up.
	CgroupParent string
	// Kept leaves the node to a later program of tests (Attach), and nobody
	// purges it when this one ends.
	Kept bool
	// StartLimit bounds the time until the daemon answers; 0 means 20 s.
	StartLimit time.Duration
}

// layout derives all names of a node from its directory and number.
func (n *Node) layout(dir string, o Options) {
	n.Dir = dir
	n.Root, n.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	n.Logs, n.CertsDir = filepath.Join(dir, "logs"), filepath.Join(dir, "certs.d")
	n.AuthFile = filepath.Join(dir, "auth.json")
	n.socket = filepath.Join(dir, "cri.sock")
	n.leaseDir = filepath.Join(dir, "leases")
	n.holdDir = filepath.Join(dir, "gate", "hold")
	n.bootID = filepath.Join(dir, "boot_id")
	// Another run at the same time must not share it; 15 bytes at most.
	n.Bridge = fmt.Sprintf("e2e%d-%d", o.Number, n.seed)
	n.CgroupParent = fmt.Sprintf("/e2e-%d-%s", o.Number, filepath.Base(dir))
	if Systemd() {
		// A slice without "-" in its name is at the top of the tree.
		n.CgroupParent = fmt.Sprintf("/e2e%d%s.slice", o.Number, filepath.Base(dir))
	}
	if o.CgroupParent != "" {
		n.CgroupParent = o.CgroupParent
	}
	n.network = "net-" + filepath.Base(dir)
	n.Subnets = []netip.Prefix{
		// What another run left behind must not look like ours.
		netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/22", 151+o.Number, n.seed%64*4)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:e2e:%x:%x::/64", o.Number+1, n.seed%0x10000)),
	}
}

// Systemd reports whether systemd is the init of this machine. The daemon, too,
// then leaves the cgroups to it.
func Systemd() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}

// write puts the node's files in place.
func (n *Node) write() error {
	for _, d := range []string{n.Root, n.State, n.Logs, n.CertsDir, n.leaseDir, n.holdDir, filepath.Join(n.Dir, "net.d")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := n.NewBoot(); err != nil {
		return err
	}
	if n.options.GateRuntime {
		gate := filepath.Join(n.Dir, "gate")
		if err := os.Symlink(n.options.Binaries.Handlers[n.handler()], filepath.Join(gate, "real")); err != nil {
			return err
		}
		if err := copyFile(n.options.Binaries.Gate, filepath.Join(gate, n.handler())); err != nil {
			return err
		}
	}
	if n.options.GateNetwork {
		if err := copyFile(n.options.Binaries.Gate, filepath.Join(n.Dir, "gate", "e2e-gate")); err != nil {
			return err
		}
	}
	if !n.options.NoConfList {
		if err := n.WriteConfList(); err != nil {
			return err
		}
	}
	over := filepath.Join(n.Dir, "config.toml.d")
	if err := os.Mkdir(over, 0o755); err != nil {
		return err
	}
	if err := n.Configure(n.options.Config); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.Dir, "config.toml"), []byte(n.config()), 0o600)
}

func (n *Node) confListPath() string { return filepath.Join(n.Dir, "net.d", "10-e2e.conflist") }

// Configure replaces Options.Config; the daemon reads it at its start and when
// it is told to Reload.
func (n *Node) Configure(text string) error {
	return os.WriteFile(filepath.Join(n.Dir, "config.toml.d", "10-test.toml"), []byte(text), 0o600)
}

// WriteConfList puts the node's network configuration in place.
func (n *Node) WriteConfList() error {
	list, err := json.MarshalIndent(n.confList(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(n.confListPath(), list, 0o644)
}

// DropConfList takes the network configuration away.
func (n *Node) DropConfList() error { return os.Remove(n.confListPath()) }

// NRISocket is where plugins connect.
func (n *Node) NRISocket() string { return filepath.Join(n.Dir, "nri.sock") }

func (n *Node) handler() string {
	if n.options.DefaultHandler != "" {
		return n.options.DefaultHandler
	}
	if _, ok := n.options.Binaries.Handlers["runc"]; ok {
		return "runc"
	}
	return slices.Sorted(maps.Keys(n.options.Binaries.Handlers))[0]
}

func (n *Node) config() string {
	var b strings.Builder
	quoted := make([]string, len(n.Subnets))
	for i, s := range n.Subnets {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	fmt.Fprintf(&b, "[image]\ncerts_dirs = [%q]\nauth_files = [%q]\n", n.CertsDir, n.AuthFile)
	fmt.Fprintf(&b, "[network]\nconf_dir = %q\nplugin_dirs = [%q, %q]\n",
		filepath.Join(n.Dir, "net.d"), n.options.Binaries.CNI, filepath.Join(n.Dir, "gate"))
	fmt.Fprintf(&b, "default_bridge = %q\ndefault_subnets = [%s]\ndata_dir = %q\n", n.Bridge, strings.Join(quoted, ", "), n.leaseDir)
	fmt.Fprintf(&b, "[nri]\nsocket = %q\nplugin_dir = %q\nconfig_dir = %q\n",
		n.NRISocket(), filepath.Join(n.Dir, "nri"), filepath.Join(n.Dir, "nri"))
	fmt.Fprintf(&b, "[runtime]\ndefault_handler = %q\ncgroup_root = %q\n", n.handler(), n.cgroupRoot())
	for _, name := range slices.Sorted(maps.Keys(n.options.Binaries.Handlers)) {
		path := n.options.Binaries.Handlers[name]
		if n.options.GateRuntime && name == n.handler() {
			path = filepath.Join(n.Dir, "gate", name)
		}
		fmt.Fprintf(&b, "[runtime.handlers.%s]\npath = %q\n", name, path)
	}
	return b.String()
}

// cgroupRoot is the parent in the form of the daemon's configuration.
func (n *Node) cgroupRoot() string {
	if Systemd() {
		return filepath.Base(n.CgroupParent)
	}
	return n.CgroupParent
}

func (n *Node) confList() map[string]any {
	var ranges [][]map[string]string
	for _, s := range n.Subnets {
		ranges = append(ranges, []map[string]string{{"subnet": s.String()}})
	}
	plugins := []map[string]any{
		{
			"type": "bridge", "bridge": n.Bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": n.leaseDir, "ranges": ranges,
				"routes": []map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
			},
		},
		{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true},
	}
	if n.options.GateNetwork {
		plugins = append(plugins, map[string]any{"type": "e2e-gate"})
	}
	return map[string]any{"cniVersion": "1.0.0", "name": n.network, "plugins": plugins}
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
