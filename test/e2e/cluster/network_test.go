package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// fetch asks over HTTP from the node, with a connection of its own.
func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(5*time.Second))
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(q)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	return strings.TrimSpace(string(data)), err
}

// server says its name over HTTP on port 8080, and answers on UDP port 8081.
func server(name string) *corev1.Pod {
	p := shared.Agnhost(name, "netexec", "--http-port=8080", "--udp-port=8081")
	p.Spec.Containers[0].ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: number(8080)}})
	return p
}

// TestHostPort: of TCP and UDP, on every address and on one; closed with the pod.
func TestHostPort(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := server("ports")
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{
		{ContainerPort: 8080, HostPort: 18080}, {ContainerPort: 8080, HostPort: 18081, HostIP: shared.Worker.IP()},
		{ContainerPort: 8081, HostPort: 18082, Protocol: corev1.ProtocolUDP},
	}
	startPod(t, ns, p)
	for _, address := range []string{"127.0.0.1:18080", shared.Worker.IP() + ":18080", shared.Worker.IP() + ":18081"} {
		suite.Await(t, suite.Limit, address, func(ctx context.Context) (bool, error) {
			got, err := fetch(ctx, "http://"+address+"/hostname")
			return got == "ports", err
		})
	}
	if got, err := fetch(t.Context(), "http://127.0.0.1:18081/hostname"); err == nil {
		t.Errorf("a port of one address answers %q on another", got)
	}
	suite.Await(t, suite.Limit, "UDP", func(ctx context.Context) (bool, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "udp", shared.Worker.IP()+":18082")
		if err != nil {
			return false, err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return false, err
		}
		if _, err := fmt.Fprintln(c, "hostname"); err != nil {
			return false, err
		}
		got, err := bufio.NewReader(c).ReadString('s')
		return got == "ports", err
	})
	shared.Delete(t, ns, p.Name)
	if got, err := fetch(t.Context(), "http://127.0.0.1:18080/hostname"); err == nil {
		t.Errorf("the port of a pod that is gone answers %q", got)
	}
}

// TestServices: a cluster address that shares among pods or stays with one, a port
// of the node, names without an address, and names of elsewhere.
func TestServices(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	for _, name := range []string{"one", "two"} {
		p := server(name)
		p.Labels = map[string]string{"app": "both"}
		p.Spec.Hostname, p.Spec.Subdomain = name, "headless"
		shared.Create(t, ns, p)
	}
	shared.Create(t, ns, shared.Shell("client", idle))
	make := func(name string, spec corev1.ServiceSpec) *corev1.Service {
		t.Helper()
		if spec.Ports = []corev1.ServicePort{{Port: 80, TargetPort: number(8080)}}; spec.Type != corev1.ServiceTypeExternalName {
			spec.Selector = map[string]string{"app": "both"}
		}
		made, err := shared.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		must(t, err)
		return made
	}
	make("spread", corev1.ServiceSpec{})
	make("sticky", corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP})
	node := make("node", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort})
	make("headless", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone})
	make("elsewhere", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "spread." + ns + ".svc.cluster.local"})
	for _, name := range []string{"one", "two", "client"} {
		shared.AwaitReady(t, ns, name)
	}
	// who tells which pods answer a dozen requests.
	who := func(ctx context.Context, url string) (string, error) {
		out, err := shared.Kubectl.Run(ctx, "exec", "-n", ns, "client", "--", "sh", "-c",
			"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do probe get "+url+"; echo; done | grep . | sort -u | tr '\\n' ' '")
		return strings.TrimSpace(out), err
	}
	for url, want := range map[string]func(string) bool{
		"http://spread/hostname":            func(s string) bool { return s == "one two" },
		"http://sticky/hostname":            func(s string) bool { return s == "one" || s == "two" },
		"http://elsewhere/hostname":         func(s string) bool { return s == "one two" },
		"http://one.headless:8080/hostname": func(s string) bool { return s == "one" },
		"http://headless:8080/hostname":     func(s string) bool { return s != "" },
		fmt.Sprintf("http://%s:%d/hostname", shared.Worker.IP(), node.Spec.Ports[0].NodePort): func(s string) bool { return s == "one two" },
	} {
		suite.Await(t, suite.Limit, url, func(ctx context.Context) (bool, error) {
			got, err := who(ctx, url)
			if err == nil && !want(got) {
				err = fmt.Errorf("answers come from %q", got)
			}
			return err == nil, err
		})
	}
	if got, err := fetch(t.Context(), fmt.Sprintf("http://%s:%d/hostname", shared.Worker.IP(), node.Spec.Ports[0].NodePort)); err != nil || got != "one" && got != "two" {
		t.Errorf("from the node: %q, %v", got, err)
	}
}

// TestNamesInPods: host name, resolver and /etc/hosts are what the pod asks for.
func TestNamesInPods(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	for name, c := range map[string]struct {
		script string
		set    func(*corev1.PodSpec)
		want   string
	}{
		"plain": {"hostname; grep -c search.*" + ns + ".svc.cluster.local /etc/resolv.conf; grep -q plain /etc/hosts && echo host", func(*corev1.PodSpec) {}, "plain\n1\nhost\n"},
		"fqdn": {"hostname", func(s *corev1.PodSpec) {
			s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = "me", "sub", pointer(true)
		}, "me.sub." + ns + ".svc.cluster.local\n"},
		"aliases": {"grep 192.0.2.7 /etc/hosts | tr '\\t' ' '", func(s *corev1.PodSpec) {
			s.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"far", "away"}}}
		}, "192.0.2.7 far away\n"},
		"resolver": {"cat /etc/resolv.conf", func(s *corev1.PodSpec) {
			s.DNSPolicy = corev1.DNSNone
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.8"}, Searches: []string{"example.org"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: pointer("3")}}}
		}, "nameserver 192.0.2.8\nsearch example.org\noptions ndots:3\n"},
		"of-node": {"grep -v '^#' /etc/resolv.conf", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }, "nameserver 127.0.0.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := shared.Shell(name, c.script)
			c.set(&p.Spec)
			if got := shared.Run(t, ns, p); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
