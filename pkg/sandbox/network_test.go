package sandbox

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

var _ Network = (*network.Network)(nil)

const ownNetworkEnv = "SANDBOX_TEST_OWN_NETWORK"

// TestRealNetwork runs two pods on the embedded network, in a process with a
// network namespace of its own, whose bridge and rules go with it.
func TestRealNetwork(t *testing.T) {
	if os.Getenv(ownNetworkEnv) != "" {
		realNetwork(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRealNetwork$", "-test.v")
	cmd.Env = append(os.Environ(), ownNetworkEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func realNetwork(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	real, err := network.New(network.Config{
		ConfDir:    filepath.Join(dir, "net.d"),
		PluginDirs: []string{filepath.Join(dir, "bin")},
		CacheDir:   filepath.Join(dir, "cni"),
		InProcess:  true,
		DefaultNetwork: network.DefaultNetwork{
			Bridge:  "sandbox-test0",
			Subnets: []netip.Prefix{netip.MustParsePrefix("10.199.7.0/24")},
			DataDir: filepath.Join(dir, "networks"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Network = real
	m := n.start(t)
	a := ready(t, m, "a", params("a")).Status()
	b := ready(t, m, "b", params("b")).Status()
	if len(a.IPs) != 1 || len(b.IPs) != 1 || a.IPs[0] == b.IPs[0] || !json.Valid(a.NetworkResult) {
		t.Fatalf("addresses are %v and %v, result %s", a.IPs, b.IPs, a.NetworkResult)
	}
	hosts, err := os.ReadFile(a.Files.Hosts)
	if err != nil || !strings.Contains(string(hosts), a.IPs[0].String()+"\ta\n") {
		t.Errorf("hosts is %q, %v", hosts, err)
	}
	talk(t, a, b)

	m = n.start(t) // a restart changes nothing
	talk(t, a, b)
	if err := m.Stop(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if known, err := real.Known(); err != nil || len(known) != 1 || known[0] != "b" {
		t.Errorf("after Stop of a the network knows %q %v", known, err)
	}
	reboot(t, n)
	m = n.start(t)
	if known, err := real.Known(); err != nil || len(known) > 0 {
		t.Errorf("after a reboot the network knows %q %v", known, err)
	}
	// The addresses are free again, or this would be the third pod's.
	if leases, err := filepath.Glob(filepath.Join(dir, "networks", "*", "10.199.7.*")); err != nil || len(leases) > 0 {
		t.Errorf("addresses are still reserved: %q %v", leases, err)
	}
	remove(t, m, "a", "b")
	n.clean(t, m)
	if err := real.Close(); err != nil {
		t.Error(err)
	}
}

// talk sends a datagram from one pod to the other.
func talk(t *testing.T, from, to Status) {
	t.Helper()
	inside(t, Namespaces{Net: to.Namespaces.Net}, func() error {
		server, err := net.ListenPacket("udp", netip.AddrPortFrom(to.IPs[0], 53).String())
		if err != nil {
			return err
		}
		defer server.Close()
		if err := server.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		inside(t, Namespaces{Net: from.Namespaces.Net}, func() error {
			client, err := net.Dial("udp", server.LocalAddr().String())
			if err != nil {
				return err
			}
			defer client.Close()
			_, err = client.Write([]byte("hello"))
			return err
		})
		got := make([]byte, 16)
		size, peer, err := server.ReadFrom(got)
		if err != nil {
			return err
		}
		if string(got[:size]) != "hello" || !strings.HasPrefix(peer.String(), from.IPs[0].String()+":") {
			t.Errorf("got %q from %s", got[:size], peer)
		}
		return nil
	})
}
