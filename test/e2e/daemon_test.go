package e2e

import (
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
)

// TestVersionAndStatus answer what kubelet asks at start.
func TestVersionAndStatus(t *testing.T) {
	e := onShared(t)
	v, err := e.node.Runtime.Version(t.Context(), "0.1.0")
	e.must(err)
	if v.Version == "" || v.RuntimeName == "" || v.RuntimeName == "docker" || v.RuntimeVersion == "" || v.RuntimeApiVersion != "v1" {
		t.Errorf("version is %v", v)
	}
	s, err := e.node.Runtime.Status(t.Context(), true)
	e.must(err)
	conditions := map[string]bool{}
	for _, c := range s.Status.Conditions {
		conditions[c.Type] = c.Status
	}
	if !conditions[runtimeapi.RuntimeReady] || !conditions[runtimeapi.NetworkReady] {
		t.Errorf("conditions are %v", s.Status.Conditions)
	}
	handlers := map[string]bool{}
	for _, h := range s.RuntimeHandlers {
		handlers[h.Name] = true
	}
	if !handlers[""] {
		t.Error("no entry for the default handler")
	}
	for name := range shared.bin.Handlers {
		if !handlers[name] {
			t.Errorf("no entry for the handler %s", name)
		}
	}
	if !s.Features.GetSupplementalGroupsPolicy() {
		t.Error("supplemental groups policy is not announced")
	}
	for key, value := range s.Info {
		if !json.Valid([]byte(value)) {
			t.Errorf("info %s is no JSON", key)
		}
	}
	c, err := e.node.Runtime.RuntimeConfig(t.Context())
	e.must(err)
	if c.Linux == nil {
		t.Error("no cgroup driver")
	}
}

// TestSocket is for root only and belongs to one daemon.
func TestSocket(t *testing.T) {
	e := onShared(t)
	info, err := os.Stat(strings.TrimPrefix(e.node.Endpoint(), "unix://"))
	e.must(err)
	equal(e, "mode", info.Mode().Perm(), fs.FileMode(0o660))
	for _, dir := range []string{e.node.Root, e.node.State} {
		info, err := os.Stat(dir)
		e.must(err)
		if info.Mode().Perm()&0o006 != 0 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
	out, err := e.node.RunSecond(t.Context())
	if err == nil || len(out) == 0 {
		t.Errorf("a second daemon on the same directories ended with %v, %q", err, out)
	}
	e.must(e.node.Connect(t.Context()))
}

// TestTerminate drains: what runs goes on without the daemon.
func TestTerminate(t *testing.T) {
	e := ownNode(t, node.Options{Number: 11})
	canary := e.newCanary()
	e.must(e.node.Stop(10 * time.Second))
	e.must(e.node.Restart(t.Context()))
	e.checkCanary(canary)
	e.endCanary(canary)
}
