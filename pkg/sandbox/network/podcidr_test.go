package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func newCIDRNetwork(t *testing.T, dir, templateText string, fixed bool) *Network {
	t.Helper()
	cfg := Config{
		ConfDir: filepath.Join(dir, "net.d"), CacheDir: filepath.Join(dir, "cache"),
		DefaultNetwork: DefaultNetwork{Subnets: prefixes("10.9.0.0/24"), Fixed: fixed},
	}
	if templateText != "" {
		cfg.ConfTemplate = filepath.Join(dir, "template")
		if err := os.WriteFile(cfg.ConfTemplate, []byte(templateText), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func inForce(t *testing.T, n *Network) string {
	t.Helper()
	c := n.state.Load().conf
	if c == nil {
		t.Fatalf("no configuration: %v", n.state.Load().reason)
	}
	return string(c.list.Bytes)
}

const cidrTemplate = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp","ipam":{"type":"host-local","subnet":"{{.PodCIDR}}",
"ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}],
"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}}]}`

func TestPodCIDRsThroughTemplate(t *testing.T) {
	dir := t.TempDir()
	n := newCIDRNetwork(t, dir, cidrTemplate, false)
	if err := n.SetPodCIDRs(prefixes("10.244.3.0/24", "fd00:3::/64")); err != nil {
		t.Fatal(err)
	}
	rendered := filepath.Join(dir, "net.d", renderedFile)
	// The next daemon has it before anybody tells it, also where it was lost.
	if err := os.Remove(rendered); err != nil {
		t.Fatal(err)
	}
	n = newCIDRNetwork(t, dir, cidrTemplate, false)
	doc, err := os.ReadFile(rendered)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"subnet":"10.244.3.0/24"`, `[{"subnet":"fd00:3::/64"}]`, `{"dst":"0.0.0.0/0"},{"dst":"::/0"}`} {
		if !strings.Contains(string(doc), want) || !strings.Contains(inForce(t, n), want) {
			t.Errorf("%s lacks %s", doc, want)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "net.d"))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestBadTemplateChangesNothing(t *testing.T) {
	for name, text := range map[string]string{
		"syntax":  `{{`,
		"unknown": `{{.Nothing}}`,
		"no CNI":  `{"name":"x"}`,
		"no JSON": `{{.PodCIDR}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			n := newCIDRNetwork(t, dir, text, false)
			if err := n.SetPodCIDRs(prefixes("10.244.3.0/24")); err == nil {
				t.Error("accepted")
			}
			if _, err := os.Stat(filepath.Join(dir, "net.d", renderedFile)); err == nil {
				t.Error("a broken configuration is in place")
			}
			if _, err := os.Stat(n.podCIDRPath()); err == nil {
				t.Error("the CIDRs were kept")
			}
		})
	}
}

// A configuration that somebody else has put in place stays the only one.
func TestTemplateYields(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "net.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "net.d", "99-other.conflist"), []byte(`{"name":"other","plugins":[{"type":"ptp"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newCIDRNetwork(t, dir, cidrTemplate, false)
	if err := n.SetPodCIDRs(prefixes("10.244.3.0/24")); err != nil {
		t.Fatal(err)
	}
	if got := inForce(t, n); !strings.Contains(got, "other") {
		t.Errorf("in force is %s", got)
	}
}

func TestPodCIDRsOfTheDefaultNetwork(t *testing.T) {
	dir := t.TempDir()
	if err := newCIDRNetwork(t, dir, "", false).SetPodCIDRs(prefixes("10.244.3.0/24")); err != nil {
		t.Fatal(err)
	}
	if got := inForce(t, newCIDRNetwork(t, dir, "", false)); !strings.Contains(got, "10.244.3.0/24") {
		t.Errorf("the next daemon has %s", got)
	}
	if got := inForce(t, newCIDRNetwork(t, dir, "", true)); !strings.Contains(got, "10.9.0.0/24") {
		t.Errorf("what the operator chose became %s", got)
	}
}

func TestBadPodCIDRs(t *testing.T) {
	n := newCIDRNetwork(t, t.TempDir(), "", false)
	for name, cidrs := range map[string][]netip.Prefix{
		"none": nil, "host bits": prefixes("10.0.0.1/24"), "no room": prefixes("10.0.0.0/31"),
		"two of a family": prefixes("10.0.0.0/24", "10.0.1.0/24"),
	} {
		if err := n.SetPodCIDRs(cidrs); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
