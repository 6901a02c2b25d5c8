package e2e

import (
	"strings"
	"testing"
)

// TestVerbsNetwork: networks are made, listed, joined, left and removed, and
// names in them come and go with the members.
func TestVerbsNetwork(t *testing.T) {
	v := onVerbs(t)
	t.Cleanup(func() { v.run("network", "prune", "-f") })
	if got := v.ok("network", "create", "--driver", "bridge", "--label", "app=shop", "shop"); got != "shop" {
		t.Errorf("create prints %q", got)
	}
	for line, want := range map[string]string{
		"network create shop":                       `network "shop" exists already`,
		"network create host":                       "always there",
		"network create --subnet 10.9.0.0/24 other": "--subnet is not supported",
		"network create --internal other":           "--internal is not supported",
		"network create -d macvlan other":           "it can only be bridge",
		"network create no/name":                    "no/name",
		"network rm nowhere":                        "no such network: nowhere",
		"network connect nowhere x":                 "x",
		"network inspect nowhere":                   "no such network: nowhere",
	} {
		if got := v.run(strings.Fields(line)...); got.code == 0 || !strings.Contains(got.err, want) {
			t.Errorf("%s: exit code %d, %q, want %q", line, got.code, got.err, want)
		}
	}
	if got := v.ok("network", "ls", "-q"); got != "host\nnone\npod\nshop" {
		t.Errorf("ls prints %q", got)
	}
	if got := v.ok("network", "ls", "--filter", "label=app=shop", "--format", "{{.Name}} {{.Driver}} {{.Label \"app\"}}"); got != "shop bridge shop" {
		t.Errorf("ls prints %q", got)
	}
	v.ok("run", "-d", "--name", "store", "--network", "shop", "IMAGE", "sleep", "1000")
	v.ok("run", "-d", "--name", "client", "IMAGE", "sleep", "1000")
	knows := func() string { return v.ok("exec", "client", "cat", "/etc/hosts") }
	if strings.Contains(knows(), "store") {
		t.Error("a container knows a network that it is not in")
	}
	v.ok("network", "connect", "--alias", "customer", "shop", "client")
	if !strings.Contains(knows(), "store") || !strings.Contains(v.ok("exec", "store", "cat", "/etc/hosts"), "customer") {
		t.Errorf("after connect: %s", knows())
	}
	if got := v.ok("network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "shop"); !strings.Contains(got, "store") || !strings.Contains(got, "client") {
		t.Errorf("inspect prints %q", got)
	}
	if got := v.run("network", "connect", "shop", "client"); got.code != 1 || !strings.Contains(got.err, "already") {
		t.Errorf("connected twice: %v", got)
	}
	if got := v.run("network", "rm", "shop"); got.code != 1 || !strings.Contains(got.err, "store") {
		t.Errorf("a network in use is removed: %v", got)
	}
	v.ok("network", "disconnect", "shop", "client")
	if strings.Contains(knows(), "store") {
		t.Errorf("after disconnect: %s", knows())
	}
	v.ok("rm", "-f", "store", "client")
	if got := v.ok("network", "prune", "-f"); !strings.HasPrefix(got, "Deleted Networks:\nshop\n") {
		t.Errorf("prune prints %q", got)
	}
}
