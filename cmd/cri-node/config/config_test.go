package config

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// equal compares values and not where they came from.
func equal(t *testing.T, got, want *Config) {
	t.Helper()
	diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
	if diff != "" {
		t.Errorf("configuration differs (-want +got):\n%s", diff)
	}
}

// write makes files below a new directory and returns it. A name may hold
// directories.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestPrintedDefaultLoadsAsDefault(t *testing.T) {
	var printed bytes.Buffer
	if err := WriteDefault(&printed); err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"config.toml": printed.String()})
	got, err := Load(filepath.Join(dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, Default())
}

func TestDumpLoadsAsItself(t *testing.T) {
	dir := write(t, map[string]string{"in.toml": "[runtime]\ncreate_timeout = '90s'\n[runtime.handlers.kata]\npath='/opt/kata'\n[server]\nmax_recv = 5000000\n"})
	first, err := Load(filepath.Join(dir, "in.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var dump bytes.Buffer
	if err := first.Write(&dump); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "out.toml"), dump.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := Load(filepath.Join(dir, "out.toml"))
	if err != nil {
		t.Fatalf("load the dump: %v\n%s", err, dump.String())
	}
	equal(t, second, first)
}

// keysOf lists the dotted keys of a struct; maps end in ".NAME".
func keysOf(prefix string, t reflect.Type) []string {
	switch {
	case t == reflect.TypeFor[Duration](), t == reflect.TypeFor[netip.Prefix]():
		return []string{prefix}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return append([]string{prefix}, keysOf(prefix+".NAME", t.Elem())...)
	case t.Kind() != reflect.Struct:
		return []string{prefix}
	}
	var keys []string
	for field := range t.Fields() {
		if field.IsExported() {
			keys = append(keys, keysOf(strings.TrimPrefix(prefix+"."+field.Tag.Get("toml"), "."), field.Type)...)
		}
	}
	return keys
}

// TestEachKeyIsDocumented wants every key of the structs in default.toml, each
// below a comment of its own, and no key there that the structs lack (Load is
// strict). What is commented out, as an example, counts as well.
func TestEachKeyIsDocumented(t *testing.T) {
	text := string(defaultFile)
	// `# path = ""` of the example counts as key, "# # words" as its comment.
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "# "); ok && (strings.HasPrefix(rest, "# ") || strings.HasPrefix(rest, "[runtime.handlers.NAME]") || strings.HasSuffix(rest, ` = ""`) || strings.HasSuffix(rest, " = false")) {
			lines[i] = rest
		}
	}
	documented := documentedKeys(t, lines)
	for _, key := range keysOf("", reflect.TypeFor[Config]()) {
		if !documented[key] {
			t.Errorf("%s has no comment of its own in default.toml", key)
		}
	}
}

func documentedKeys(t *testing.T, lines []string) map[string]bool {
	t.Helper()
	var c Config
	c.origins = make(map[string]origin)
	if err := c.recordOrigins("", []byte(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for key, o := range c.origins {
		documented[key] = o.line > 1 && strings.HasPrefix(lines[o.line-2], "#")
	}
	return documented
}

func TestMergeOrder(t *testing.T) {
	dir := write(t, map[string]string{
		"config.toml":                  "[log]\nlevel = 3\nformat = 'json'\n[image]\npinned = ['a', 'b']\n[runtime.default_sysctls]\n'net.a' = '1'\n'net.b' = '1'\n'net.ipv4.ping_group_range' = ''\n[runtime.handlers.x]\npath = '/x'\n",
		"config.toml.d/10-a.toml":      "[log]\nlevel = 4\n[runtime.handlers.x]\nroot = '/run/cri-node/x'\n",
		"config.toml.d/20-b.toml":      "[log]\nlevel = 5\n[image]\npinned = ['c']\n[runtime.default_sysctls]\n'net.b' = '2'\n",
		"config.toml.d/.hidden.toml":   "nonsense",
		"config.toml.d/30-c.toml.orig": "nonsense",
	})
	got, err := Load(filepath.Join(dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Log = Log{Level: 5, Format: FormatJSON}
	want.Image.Pinned = []string{"c"}
	want.Runtime.DefaultSysctls = map[string]string{"net.a": "1", "net.b": "2", "net.ipv4.ip_unprivileged_port_start": "0"}
	want.Runtime.Handlers = map[string]Handler{"x": {Path: "/x", Root: "/run/cri-node/x"}}
	equal(t, got, want)
}

func TestLoadsDirectoryWithoutFile(t *testing.T) {
	dir := write(t, map[string]string{"config.toml.d/a.toml": "root = '/srv/cri-node'"})
	if _, err := Load(filepath.Join(dir, "config.toml")); err == nil {
		t.Error("a named file that does not exist was accepted")
	}
}

func TestOverrides(t *testing.T) {
	dir := write(t, map[string]string{"config.toml": "root = '/srv/cri-node'\n[log]\nlevel = 3\n"})
	got, err := Load(filepath.Join(dir, "config.toml"),
		Override{"--root", "root", "/data/cri-node"},
		Override{"--state", "state", "/run/other"},
		Override{"--log-level", "log.level", 6})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Root, want.State, want.Log.Level = "/data/cri-node", "/run/other", 6
	want.Server.Listen = "unix:///run/other/cri.sock"
	want.Admin.Address = "unix:///run/other/admin.sock"
	equal(t, got, want)

	_, err = Load(filepath.Join(dir, "config.toml"), Override{"--listen", "server.listen", "tcp://1.2.3.4:5"})
	if err == nil || !strings.HasPrefix(err.Error(), "--listen: server.listen: ") {
		t.Errorf("error is %v, want it to name the flag and the key", err)
	}
	_, err = Load(filepath.Join(dir, "config.toml"), Override{"--log-level", "log.level", "high"})
	if err == nil || !strings.HasPrefix(err.Error(), "--log-level: log.level: ") {
		t.Errorf("error is %v, want it to name the flag and the key", err)
	}
}

func TestListenSetInFileStays(t *testing.T) {
	dir := write(t, map[string]string{"c.toml": "state = '/run/other'\n[server]\nlisten = 'unix:///run/cri-node/cri.sock'\n"})
	got, err := Load(filepath.Join(dir, "c.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Server.Listen != "unix:///run/cri-node/cri.sock" {
		t.Errorf("listen is %q", got.Server.Listen)
	}
}

func TestMistakesNameFileLineAndKey(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"unknown key", "root = '/srv/cri-node'\nrooot = 1", ":2: rooot: unknown key"},
		{"unknown key in a table", "[log]\nlevel = 1\nlevels = 2", ":3: log.levels: unknown key"},
		{"unknown table", "\n[lag]\nlevel = 1", ":2: lag: unknown key"},
		{"unknown handler key", "[runtime.handlers.kata]\ntype = 'vm'", ":2: runtime.handlers.kata.type: unknown key"},
		{"syntax", "[log]\nlevel = \n", ":2: "},
		{"defined twice", "root = '/a'\nroot = '/b'", ":2: root: "},
		{"wrong type", "[log]\n\nlevel = 'high'", ":3: log.level: is a TOML string, want an integer"},
		{"list for string", "root = ['/a']", ":1: root: "},
		{"string for list", "[image]\npinned = 'a'", ":2: image.pinned: is a TOML string, want a list"},
		{"bare number for duration", "[image]\nprogress_timeout = 30", `:2: image.progress_timeout: "30" is no duration`},
		{"number for subnet", "[network]\ndefault_subnets = [\n 10 ]\n[log]\nlevel=1\n", ":2: network.default_subnets: "},
		{"bad duration", "[image]\nprogress_timeout = '30'", `:2: image.progress_timeout: "30" is no duration`},
		{"short duration", "[image]\nprogress_timeout = '3ms'", ":2: image.progress_timeout: is 3ms, want 1s or more"},
		{"bad size", "[server]\nmax_recv = '16MB'", `:2: server.max_recv: "16MB" is no size`},
		{"small size", "[server]\nmax_recv = 12", ":2: server.max_recv: is 12B, want 1MiB to 1GiB"},
		{"relative root", "root = 'x'", `:1: root: "x" is no absolute path`},
		{"root of the machine", "root = '/'", ":1: root: "},
		{"whole /run", "state = '/run'", ":1: state: "},
		{"unclean root", "root = '/srv/cri-node/'", ":1: root: "},
		{"root inside state", "root = '/run/cri-node/root'", ":1: root: "},
		{"state inside root", "state = '/var/lib/cri-node/state'", ":1: state: "},
		{"tcp", "[server]\nlisten = 'tcp://0.0.0.0:1'", ":2: server.listen: "},
		{"long socket", "[server]\nlisten = 'unix:///" + strings.Repeat("a", 108) + "'", ":2: server.listen: "},
		{"negative gid", "server.socket_gid = -1", ":1: server.socket_gid: "},
		{"level", "log.level = 11", ":1: log.level: "},
		{"format", "log.format = 'xml'", ":1: log.format: "},
		{"certs dir", "[image]\ncerts_dirs = [\n'/a',\n'b',\n]", ":2: image.certs_dirs: "},
		{"layers", "image.max_parallel_layers = 0", ":1: image.max_parallel_layers: "},
		{"realm with a scheme", "image.trusted_realms = ['https://auth.example.com']", ":1: image.trusted_realms: "},
		{"realm with a path", "image.trusted_realms = ['auth.example.com/token']", ":1: image.trusted_realms: "},
		{"empty realm", "image.trusted_realms = ['auth.example.com', '']", ":1: image.trusted_realms: "},
		{"realm with a bad port", "image.trusted_realms = ['auth.example.com:x']", ":1: image.trusted_realms: "},
		{"pinned", "image.pinned = ['']", ":1: image.pinned: "},
		{"conf dir", "network.conf_dir = ''", ":1: network.conf_dir: "},
		{"bridge", "network.default_bridge = 'a-very-long-name'", ":1: network.default_bridge: "},
		{"no subnet", "network.default_subnets = []", ":1: network.default_subnets: "},
		{"bad subnet", "network.default_subnets = ['10.0.0.0']", ":1: network.default_subnets: "},
		{"host bits", "network.default_subnets = ['10.0.0.1/16']", ":1: network.default_subnets: 10.0.0.1/16 has host bits, want 10.0.0.0/16"},
		{"tiny subnet", "network.default_subnets = ['10.0.0.0/30']", ":1: network.default_subnets: "},
		{"two of one family", "network.default_subnets = ['10.0.0.0/16', '10.1.0.0/16']", ":1: network.default_subnets: "},
		{"cgroup driver", "runtime.cgroup_driver = 'v2'", ":1: runtime.cgroup_driver: "},
		{"cgroup root", "runtime.cgroup_root = 'pods'", ":1: runtime.cgroup_root: "},
		{"cgroup root that climbs", "runtime.cgroup_root = '/a/../..'", ":1: runtime.cgroup_root: "},
		{"capability", "runtime.default_capabilities = ['NET RAW']", ":1: runtime.default_capabilities: "},
		{"env", "runtime.default_env = ['=x']", ":1: runtime.default_env: "},
		{"pids", "runtime.pids_limit = -1", ":1: runtime.pids_limit: "},
		{"log line", "runtime.max_log_line = '8MiB'", ":1: runtime.max_log_line: "},
		{"relative CDI directory", "[runtime]\ncdi_dirs = ['etc/cdi']", ":2: runtime.cdi_dirs: "},
		{"relative hooks directory", "[runtime]\nhooks_dirs = ['/a', 'b']", ":2: runtime.hooks_dirs: "},
		{"sysctl name", "[runtime.default_sysctls]\n'../x' = '1'", ":2: runtime.default_sysctls.../x: "},
		{"sysctl in an inline table", "[runtime]\ndefault_sysctls = {'net' = '1'}", ":2: runtime.default_sysctls.net: "},
		{"handler name", "[runtime.handlers.Kata]\npath = '/k'", ":1: runtime.handlers.Kata: "},
		{"handler path", "[runtime.handlers.kata]\npath = 'k'", ":2: runtime.handlers.kata.path: "},
		{"unknown default handler", "runtime.default_handler = 'kata'", ":1: runtime.default_handler: "},
		{"admin", "admin.address = '0.0.0.0:6060'", ":1: admin.address: "},
		{"URL of a collector", "tracing.endpoint = 'http://collector:4317'", ":1: tracing.endpoint: "},
		{"collector without port", "tracing.endpoint = 'collector'", ":1: tracing.endpoint: "},
		{"collector without host", "tracing.endpoint = ':4317'", ":1: tracing.endpoint: "},
		{"authorities of nobody", "[tracing]\ninsecure = true\ntls_ca_file = '/ca'", ":3: tracing.tls_ca_file: "},
		{"relative authorities", "tracing.tls_ca_file = 'ca'", ":1: tracing.tls_ca_file: "},
		{"sampling rate", "tracing.sampling_rate_per_million = 1000001", ":1: tracing.sampling_rate_per_million: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(write(t, map[string]string{"c.toml": test.file}), "c.toml")
			_, err := Load(path)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), path+test.want) {
				t.Errorf("error is\n%v\nwant it to contain\n%s", err, path+test.want)
			}
			if strings.Contains(err.Error(), "config.") && strings.Contains(err.Error(), "struct") {
				t.Errorf("error speaks of Go types: %v", err)
			}
		})
	}
}

func TestAllMistakesAreReported(t *testing.T) {
	path := filepath.Join(write(t, map[string]string{"c.toml": "log.level = 99\nlog.format = 'x'\nroot = 'y'\n"}), "c.toml")
	_, err := Load(path)
	for _, key := range []string{":1: log.level", ":2: log.format", ":3: root"} {
		if err == nil || !strings.Contains(err.Error(), path+key) {
			t.Errorf("error %v does not name %s", err, key)
		}
	}
}

func TestMistakesOfAllFilesAreReported(t *testing.T) {
	dir := write(t, map[string]string{
		"c.toml":            "log.level = 'high'\n",
		"c.toml.d/10.toml":  "log.format = 'x'\nrooot = 1\n[image]\nmax_layers = 2\n",
		"c.toml.d/20.toml":  "[image\n",
		"c.toml.d/30.toml":  "image.progress_timeout = '1ms'\n",
		"c.toml.d/40.other": "neither = 'read'\n",
	})
	path := filepath.Join(dir, "c.toml")
	c, err := Load(path, Override{"--listen", "server.listen", "tcp://1"})
	if c != nil || err == nil {
		t.Fatalf("got %v, %v", c, err)
	}
	for _, want := range []string{
		path + ":1: log.level: is a TOML string",
		path + ".d/10.toml:1: log.format: ",
		path + ".d/10.toml:2: rooot: unknown key",
		path + ".d/10.toml:4: image.max_layers: unknown key",
		path + ".d/20.toml:1: ",
		path + ".d/30.toml:1: image.progress_timeout: ",
		"--listen: server.listen: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %s:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 7 {
		t.Errorf("%d mistakes instead of 7:\n%v", n, err)
	}
}

func TestNetworkOffNeedsNoSubnet(t *testing.T) {
	c := Default()
	c.Network.Default, c.Network.DefaultSubnets, c.Network.DefaultBridge = false, nil, ""
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestCapabilitiesAreCanonical(t *testing.T) {
	path := filepath.Join(write(t, map[string]string{"c.toml": "runtime.default_capabilities = ['chown', 'CAP_KILL', 'NET_RAW']"}), "c.toml")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"}, c.Runtime.DefaultCapabilities); diff != "" {
		t.Error(diff)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1": 1, "1B": 1, "16MiB": 16 << 20, "512 KiB": 512 << 10, "3GiB": 3 << 30, "1TiB": 1 << 40} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q is %d, %v, want %d", text, s, err, want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q printed as %q is %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "16MB", "16m", "9999999TiB", "1 2"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %d", text, s)
		}
	}
}

func TestChanged(t *testing.T) {
	before, after := Default(), Default()
	after.Log.Level = 7
	after.Image.ProgressTimeout = Duration{5 * time.Minute}
	after.Runtime.Handlers = map[string]Handler{"kata": {Path: "/k"}}
	got, err := Changed(before, after)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"image.progress_timeout", "log.level", "runtime.handlers.kata.path", "runtime.handlers.kata.privileged_without_host_devices", "runtime.handlers.kata.root"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := Changed(before, Default()); err != nil || len(got) != 0 {
		t.Errorf("two defaults differ in %v, %v", got, err)
	}
}

// FuzzLoad wants an error or a valid configuration of whatever is in a file, and
// that what it prints loads again.
func FuzzLoad(f *testing.F) {
	f.Add(defaultFile)
	f.Add([]byte("[runtime]\ndefault_sysctls = {'net.a' = '1'}\n[runtime.handlers.x]\n"))
	f.Add([]byte("a.b.c = {d = [1, {e = 2}]}\n[[x]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		if c.merge("f.toml", data) != nil {
			return
		}
		c.derive()
		if c.Validate() != nil {
			return
		}
		var printed bytes.Buffer
		if err := c.Write(&printed); err != nil {
			t.Fatal(err)
		}
		again := Default()
		if err := again.merge("printed.toml", printed.Bytes()); err != nil {
			t.Fatalf("%v\n%s", err, printed.String())
		}
	})
}
