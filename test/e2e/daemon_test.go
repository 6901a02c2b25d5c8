package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
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
	equal(e, "mode", info.Mode().Perm(), fs.FileMode(0o600))
	for _, dir := range []string{e.node.Root, e.node.State} {
		info, err := os.Stat(dir)
		e.must(err)
		if info.Mode().Perm()&0o006 != 0 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
	for name, but := range map[string][]string{
		"root and state": nil,
		"root":           {"--state", filepath.Join(t.TempDir(), "state")},
		"state":          {"--root", filepath.Join(t.TempDir(), "root")},
		"socket":         {"--root", filepath.Join(t.TempDir(), "root"), "--state", filepath.Join(t.TempDir(), "state")},
	} {
		out, err := e.node.RunSecond(t.Context(), but...)
		if err == nil || !strings.Contains(out, "cri-node: ") || !strings.Contains(out, "another") {
			t.Errorf("a second daemon with the same %s ended with %v, %q", name, err, out)
		}
	}
	e.must(e.node.Connect(t.Context()))
}

// TestTerminate drains: a call under way gets its answer, new ones are refused,
// and what runs goes on without the daemon.
func TestTerminate(t *testing.T) {
	e := ownNode(t, node.Options{Number: 11})
	canary := e.newCanary()
	ref := e.big("drain/a:1", 2<<20)
	reached := shared.registry.StallBlobs(1 << 20)
	t.Cleanup(shared.registry.Release)
	pulled := make(chan error, 1)
	go func() { pulled <- e.node.Pull(t.Context(), ref) }()
	select {
	case <-reached:
	case err := <-pulled:
		t.Fatalf("the pull was not stalled: %v", err)
	}
	e.must(e.node.Terminate())
	e.eventually(10*time.Second, func() error {
		if _, err := os.Stat(strings.TrimPrefix(e.node.Endpoint(), "unix://")); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("the socket is not gone")
		}
		return nil
	})
	shared.registry.Release()
	if err := <-pulled; err != nil {
		t.Errorf("a pull under way when the daemon was told to end: %v", err)
	}
	e.must(e.node.Stop(10 * time.Second))
	e.must(e.node.Restart(t.Context()))
	e.removeImage(ref)
	e.checkCanary(canary)
	e.endCanary(canary)
}

// TestReload changes what SIGHUP may change, keeps what is in force where the
// new configuration has a mistake, and names what has to wait.
func TestReload(t *testing.T) {
	e := ownNode(t, node.Options{Number: 12})
	reload := func(config, want string) {
		t.Helper()
		offset := e.node.LogSize()
		e.must(e.node.Configure(config))
		e.must(e.node.Reload())
		e.eventually(10*time.Second, func() error {
			if log := e.node.LogFrom(offset); !strings.Contains(log, want) {
				return fmt.Errorf("the log has no %s: %s", want, log)
			}
			return nil
		})
	}
	p := e.runPod("")
	env := func(name string) string {
		t.Helper()
		return e.runs(p, name, []string{"env"}).stdout
	}
	if strings.Contains(env("before"), "RELOADED") {
		t.Error("the variable is there before the reload")
	}
	reload("[runtime]\ndefault_env = ['RELOADED=1']\n[network]\ndefault = false\n", "Reloaded the configuration")
	if !strings.Contains(env("after"), "RELOADED=1\n") {
		t.Error("a container made after the reload lacks the variable")
	}
	reload("[runtime]\ndefault_env = ['RELOADED=2']\n[log]\nlevel = 'x'\n", "10-test.toml:4: log.level")
	if !strings.Contains(env("wrong"), "RELOADED=1\n") {
		t.Error("a configuration with a mistake is in force")
	}
	reload("[network]\ndefault = false\n", `keys=["network.default"]`)
}

// TestServiceManager is told what systemd wants to know, in the right order.
func TestServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	await := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		_ = socket.SetReadDeadline(time.Now().Add(pace.Limit(10 * time.Second)))
		for {
			n, err := socket.Read(b)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			first, _, _ := strings.Cut(string(b[:n]), "\n")
			if first == want {
				return
			}
			if first != "WATCHDOG=1" {
				t.Fatalf("%q came before %s", b[:n], want)
			}
		}
	}
	e := ownNode(t, node.Options{Number: 13, Env: []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=1000000"}})
	await("READY=1")
	await("WATCHDOG=1")
	await("WATCHDOG=1")
	e.must(e.node.Reload())
	await("RELOADING=1")
	await("READY=1")
	e.must(e.node.Stop(10 * time.Second))
	await("STOPPING=1")
	e.must(e.node.Restart(t.Context()))
}
