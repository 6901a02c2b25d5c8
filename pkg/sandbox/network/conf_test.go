package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const minimal = `{"cniVersion":"1.0.0","name":"%","plugins":[{"type":"fake"}]}`

func TestChoosesConfiguration(t *testing.T) {
	named := func(name string) string { return strings.ReplaceAll(minimal, "%", name) }
	tests := []struct {
		name    string
		files   map[string]string
		want    string // network name
		problem string // in Problems, or in the error of Status where want is ""
	}{
		{"none", nil, "cri-node", ""},
		{"other files", map[string]string{"README": "x", "10-x.conf.bak": "x"}, "cri-node", ""},
		{"first in order", map[string]string{"20-b.conflist": named("b"), "10-a.conflist": named("a")}, "a", ""},
		{"single plugin", map[string]string{"10-a.conf": `{"cniVersion":"1.0.0","name":"single","type":"fake"}`}, "single", ""},
		{"json", map[string]string{"10-a.json": `{"cniVersion":"0.3.1","name":"single","type":"fake"}`}, "single", ""},
		{"broken one is passed over", map[string]string{"10-a.conflist": "{\n\n\"name\": oops}", "20-b.conflist": named("b")}, "b", "10-a.conflist: line 3: invalid character"},
		{"empty", map[string]string{"10-a.conflist": ""}, "", "10-a.conflist: line 1: unexpected end"},
		{"no plugins", map[string]string{"10-a.conflist": `{"name":"a","plugins":[]}`}, "", "no plugins in list"},
		{"no name", map[string]string{"10-a.conflist": `{"plugins":[{"type":"fake"}]}`}, "", "no name"},
		{"bad name", map[string]string{"10-a.conflist": named("../a")}, "", `network name "../a"`},
		{"path as type", map[string]string{"10-a.conflist": `{"name":"a","plugins":[{"type":"../../bin/sh"}]}`}, "", "not a bare file name"},
		{"path as ipam type", map[string]string{"10-a.conflist": `{"name":"a","plugins":[{"type":"fake","ipam":{"type":"/bin/sh"}}]}`}, "", "not a bare file name"},
		{"version of the future", map[string]string{"10-a.conflist": `{"cniVersion":"9.0.0","name":"a","plugins":[{"type":"fake"}]}`}, "", "newer than"},
		{"version that is none", map[string]string{"10-a.conflist": `{"cniVersion":"one","name":"a","plugins":[{"type":"fake"}]}`}, "", "cniVersion"},
		{"huge", map[string]string{"10-a.conflist": strings.Repeat(" ", maxConfSize+1)}, "", "no regular file"},
		{"plugins in files", map[string]string{"10-a.conflist": `{"cniVersion":"1.1.0","name":"split"}`, "split/10-p.conf": `{"type":"fake"}`}, "split", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, func(c *Config) { c.PluginDirs = []string{t.TempDir()} })
			writePlugin(t, f.cfg.PluginDirs[0], "fake", "exit 0")
			for name, doc := range tt.files {
				if err := os.MkdirAll(filepath.Join(f.cfg.ConfDir, filepath.Dir(name)), 0o755); err != nil {
					t.Fatal(err)
				}
				f.writeConf(t, name, doc)
			}
			err := f.Status(t.Context())
			info := f.Info()
			if info.Name != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("network %q, status %v", info.Name, err)
			}
			where := strings.Join(info.Problems, "\n")
			if err != nil {
				where = err.Error()
				if !errdefs.IsUnavailable(err) {
					t.Errorf("class of %v", err)
				}
			}
			if !strings.Contains(where, tt.problem) {
				t.Errorf("no %q in %s", tt.problem, where)
			}
		})
	}
}

func TestConfigurationAppearsAndGoes(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.ConfDir = filepath.Join(c.ConfDir, "not", "yet")
		c.DefaultNetwork.Disabled = true
	})
	ready := func() bool { return f.state.Load().conf != nil } // what the watch alone brings about
	err := f.Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no CNI configuration in "+f.cfg.ConfDir+" and the default network is disabled: add one or set network.default = true") {
		t.Errorf("status is %v", err)
	}
	if _, err := f.Attach(t.Context(), Attachment{ID: "early", NetNS: "/proc/self/ns/net"}); !errdefs.IsUnavailable(err) {
		t.Errorf("error is %v", err)
	}
	if err := os.MkdirAll(f.cfg.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.cfg.ConfDir, "10-a.conflist")
	// As installers do: written aside, renamed into place.
	if err := os.WriteFile(path+".tmp", []byte(f.defaultConfDoc(t, "late", nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "configuration", ready)
	if err := f.Status(t.Context()); err != nil {
		t.Error(err)
	}
	// Replaced as a whole, directory and all.
	if err := os.RemoveAll(f.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { return !ready() })
	if err := f.Status(t.Context()); err == nil {
		t.Error("still ready")
	}
	if err := os.MkdirAll(f.cfg.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(f.defaultConfDoc(t, "late", nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "configuration again", ready)
}

func TestStatusOfPlugins(t *testing.T) {
	dir := t.TempDir()
	f := newFixture(t, func(c *Config) { c.PluginDirs = []string{dir} })
	// The embedded network needs no plugin but for host ports.
	if err := f.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if p := strings.Join(f.Info().Problems, " "); !strings.Contains(p, `CNI plugin "portmap" (of the default network) not found in `+dir) {
		t.Errorf("problems %v", p)
	}
	f.writeConf(t, "10-x.conflist", `{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"fake","ipam":{"type":"fakeipam"}}]}`)
	for _, name := range []string{"fake", "fakeipam"} {
		want := `CNI plugin "` + name + `" (of 10-x.conflist) not found in ` + dir + ": install"
		if err := f.Status(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("status is %v", err)
		}
		writePlugin(t, dir, name, "echo $CNI_COMMAND >>"+dir+`/log; test ! -e `+dir+`/down || { echo '{"code":50,"msg":"agent is down"}'; exit 1; }`)
		f.check.forget()
	}
	for range 5 {
		if err := f.Status(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if log := readLog(t, dir); log != "STATUS" {
		t.Errorf("plugin ran for %q", log)
	}
	if err := os.WriteFile(filepath.Join(dir, "down"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.check.forget()
	if err := f.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "agent is down") || !errdefs.IsUnavailable(err) {
		t.Errorf("status is %v", err)
	}
}

func TestRefusesPluginsOthersCanChange(t *testing.T) {
	dir := t.TempDir()
	f := newFixture(t, func(c *Config) { c.PluginDirs = []string{dir} })
	writePlugin(t, dir, "fake", "exit 0")
	path := filepath.Join(dir, "fake")
	for _, mode := range []os.FileMode{0o777, 0o775, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := f.findPlugin("fake"); err == nil {
			t.Errorf("mode %o is accepted", mode)
		}
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1000, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.findPlugin("fake"); err == nil {
		t.Error("another owner is accepted")
	}
	for _, name := range []string{"", "..", "../fake", "/bin/sh", "fa/ke"} {
		if _, err := f.findPlugin(name); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestBridgeEligible(t *testing.T) {
	tests := map[string]bool{
		`{"type":"bridge","ipam":{"type":"host-local","subnet":"10.0.0.0/24"}}`:                                              true,
		`{"type":"bridge","vlan":0,"promiscMode":false,"ipam":{"type":"host-local","subnet":"10.0.0.0/24","resolvConf":""}}`: true,
		`{"type":"bridge","vlan":7,"ipam":{"type":"host-local","subnet":"10.0.0.0/24"}}`:                                     false,
		`{"type":"bridge","promiscMode":true,"ipam":{"type":"host-local"}}`:                                                  false,
		`{"type":"bridge","macspoofchk":true,"ipam":{"type":"host-local"}}`:                                                  false,
		`{"type":"bridge","new":1,"ipam":{"type":"host-local"}}`:                                                             false,
		`{"type":"bridge","ipam":{"type":"dhcp"}}`:                                                                           false,
		`{"type":"bridge","ipam":{"type":"host-local","resolvConf":"/etc/resolv.conf"}}`:                                     false,
		`{"type":"bridge","runtimeConfig":{"mac":"00:11:22:33:44:55"},"ipam":{"type":"host-local"}}`:                         false,
		`{"type":"bridge","args":{"cni":{"ips":["10.0.0.9"]}},"ipam":{"type":"host-local"}}`:                                 false,
		`{"type":"bridge"}`: false,
	}
	for doc, want := range tests {
		if got := bridgeEligible([]byte(doc)); got != want {
			t.Errorf("%s: %v", doc, got)
		}
	}
}

func TestDefaultNetworkWithoutIPv6(t *testing.T) {
	d := DefaultNetwork{}.withDefaults()
	list, err := d.confList(false)
	if err != nil || strings.Contains(string(list.Bytes), "::") {
		t.Errorf("%s, %v", list.Bytes, err)
	}
	d.Subnets = d.Subnets[1:]
	if _, err := d.confList(false); err == nil {
		t.Error("a network without a subnet")
	}
	for _, bad := range [][]netip.Prefix{
		{netip.MustParsePrefix("10.0.0.0/31")},
		{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.1.0.0/24")},
		{{}},
	} {
		if _, err := New(Config{CacheDir: t.TempDir(), DefaultNetwork: DefaultNetwork{Subnets: bad}}); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

func TestSysctlThatTheKernelLacks(t *testing.T) {
	for _, set := range []func(key, value string) error{setSysctl, ensureSysctl} {
		if err := set("ipv7/conf/lo/disable_ipv7", "0"); err != nil {
			t.Error(err)
		}
		if err := set("ipv4/conf/lo/no_such_key", "0"); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"cniVersion":"0.3.1","name":"single","type":"fake"}`))
	f.Add([]byte(`{"name":"a","plugins":null}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		list, err := parseConf(doc, "")
		if err != nil {
			return
		}
		// What an intent keeps must be readable again.
		if _, err := parseConf(list.Bytes, ""); err != nil {
			t.Errorf("%s: %v", list.Bytes, err)
		}
	})
}
