package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// httpGet asks for / and returns the body.
func httpGet(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, pace.Limit(2*time.Second))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(pace.Limit(3 * time.Second))); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	var body strings.Builder
	scanner, inBody := bufio.NewScanner(c), false
	for scanner.Scan() {
		if inBody {
			body.WriteString(scanner.Text())
		}
		inBody = inBody || scanner.Text() == ""
	}
	return body.String(), scanner.Err()
}

func udpEcho(addr string) (string, error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(pace.Limit(time.Second))); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return "", err
	}
	buf := make([]byte, 16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// hostAddress is a global IPv4 address of this machine, not of a test's bridge.
func hostAddress(t *testing.T) string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || strings.HasPrefix(i.Name, "e2e") {
			continue
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
				return p.Addr().String()
			}
		}
	}
	lacking(t, "address", "the machine has no address but loopback")
	return ""
}

// freePort is a port nobody listens on now.
func freePort(t *testing.T) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// ips are a pod's addresses.
func (e *env) ips(p *pod) []netip.Addr {
	e.Helper()
	r, err := e.node.Runtime.PodSandboxStatus(e.Context(), p.id, false)
	e.must(err)
	all := []netip.Addr{netip.MustParseAddr(r.Status.Network.Ip)}
	for _, a := range r.Status.Network.AdditionalIps {
		all = append(all, netip.MustParseAddr(a.Ip))
	}
	return all
}

// checkDualStack reaches the pod on each of its addresses from the host.
func checkDualStack(e *env, p *pod) {
	e.Helper()
	c := e.start(p, "httpd", []string{"probe", "httpd", "-addr", ":8080", "-body", "it works"})
	e.logHas(c, "listening")
	ips := e.ips(p)
	if len(ips) != 2 || !ips[0].Is4() || !ips[1].Is6() {
		e.Fatalf("addresses are %v, want IPv4 and IPv6", ips)
	}
	for i, ip := range ips {
		if !e.node.Subnets[i].Contains(ip) {
			e.Errorf("%v is not of %v", ip, e.node.Subnets[i])
		}
		e.eventually(10*time.Second, func() error { // IPv6 looks for duplicates first
			body, err := httpGet(netip.AddrPortFrom(ip, 8080).String())
			if err == nil && body != "it works" {
				err = fmt.Errorf("body is %q", body)
			}
			return err
		})
	}
	contains(e, "addresses inside", e.exec(c.id, "ip", "addr"), ips[0].String(), ips[1].String(), "127.0.0.1")
}

func TestNetworkDualStack(t *testing.T) {
	eachHandler(t, func(e *env, handler string) { checkDualStack(e, e.runPod(handler)) })
}

// TestNetworkBetweenPods and between containers of one pod.
func TestNetworkBetweenPods(t *testing.T) {
	e := onShared(t)
	p, q := e.runPod(""), e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-2" })
	e.logHas(e.start(p, "httpd", []string{"probe", "httpd", "-body", "from p"}), "listening")
	c := e.start(p, "neighbour", []string{"sleep", "1000"})
	d := e.start(q, "stranger", []string{"sleep", "1000"})
	equal(e, "over localhost", e.exec(c.id, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"), "from p")
	equal(e, "from another pod", e.exec(d.id, "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:8080/", e.ips(p)[0])), "from p")
}

// TestNetworkPorts reaches mapped ports through the host's address and 127.0.0.1.
func TestNetworkPorts(t *testing.T) {
	e := onShared(t)
	checkPorts(e)
}

func checkPorts(e *env) {
	e.Helper()
	tcp, udp, local := freePort(e.T), freePort(e.T), freePort(e.T)
	p := e.runPod("", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: tcp},
			{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 8081, HostPort: udp},
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: local, HostIp: "127.0.0.1"},
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 9090}, // no host port: nothing to do
		}
	})
	e.logHas(e.start(p, "httpd", []string{"probe", "httpd", "-body", "mapped"}), "listening")
	e.logHas(e.start(p, "udp", []string{"probe", "udp"}), "listening")
	host := hostAddress(e.T)
	for _, addr := range []string{
		fmt.Sprintf("127.0.0.1:%d", tcp), fmt.Sprintf("%s:%d", host, tcp), fmt.Sprintf("127.0.0.1:%d", local),
	} {
		body, err := httpGet(addr)
		if err != nil || body != "mapped" {
			e.Errorf("http://%s gives %q, %v", addr, body, err)
		}
	}
	for _, addr := range []string{fmt.Sprintf("127.0.0.1:%d", udp), fmt.Sprintf("%s:%d", host, udp)} {
		answer, err := udpEcho(addr)
		if err != nil || answer != "ping" {
			e.Errorf("udp %s gives %q, %v", addr, answer, err)
		}
	}
	if _, err := httpGet(fmt.Sprintf("%s:%d", host, local)); err == nil {
		e.Error("a port mapped on 127.0.0.1 answers on the host's address")
	}
	e.must(e.node.Runtime.StopPodSandbox(e.Context(), p.id))
	if _, err := httpGet(fmt.Sprintf("127.0.0.1:%d", tcp)); err == nil {
		e.Error("the port of a stopped pod answers")
	}
}

// TestNetworkDefault uses the network the daemon brings along, IPv4 and IPv6.
func TestNetworkDefault(t *testing.T) {
	e := ownNode(t, node.Options{Number: 1, NoConfList: true})
	r, err := e.node.Runtime.Status(t.Context(), false)
	e.must(err)
	for _, c := range r.Status.Conditions {
		if !c.Status {
			t.Errorf("condition %s is false: %s", c.Type, c.Message)
		}
	}
	checkDualStack(e, e.runPod(""))
	e2 := e.in(t)
	checkPorts(e2)
}

// TestNetworkConfigurationAppears is noticed, and its absence has a reason.
func TestNetworkConfigurationAppears(t *testing.T) {
	e := ownNode(t, node.Options{Number: 2, Config: "[network]\ndefault = false\n", NoConfList: true})
	ready := func() (bool, string) {
		r, err := e.node.Runtime.Status(e.Context(), false)
		e.must(err)
		for _, c := range r.Status.Conditions {
			if c.Type == runtimeapi.NetworkReady {
				return c.Status, c.Reason + ": " + c.Message
			}
		}
		t.Fatal("no condition NetworkReady")
		return false, ""
	}
	ok, why := ready()
	if ok || len(why) < 10 {
		t.Errorf("NetworkReady is %v without configuration: %q", ok, why)
	}
	if id, err := e.node.Runtime.RunPodSandbox(t.Context(), e.node.Pod("early").Config(), ""); err == nil {
		t.Errorf("pod %s runs without network", id)
	}
	e.must(e.node.WriteConfList())
	e.eventually(10*time.Second, func() error {
		if ok, why := ready(); !ok {
			return fmt.Errorf("NetworkReady is false: %s", why)
		}
		return nil
	})
	e.runPod("")
}

// TestNetworkOutlivesConfiguration takes a pod down whose configuration has gone.
func TestNetworkOutlivesConfiguration(t *testing.T) {
	e := ownNode(t, node.Options{Number: 3})
	p := e.runPod("")
	e.must(e.node.DropConfList())
	e.must(e.node.Kill())
	e.must(e.node.Restart(t.Context()))
	e.must(e.node.Runtime.StopPodSandbox(t.Context(), p.id))
}
