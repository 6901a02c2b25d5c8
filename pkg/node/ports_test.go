package node

import (
	"net"
	"testing"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

func TestClash(t *testing.T) {
	for name, test := range map[string]struct {
		a, b network.PortMapping
		want bool
	}{
		"the same":                {network.PortMapping{HostPort: 80}, network.PortMapping{HostPort: 80, Protocol: "tcp"}, true},
		"another port":            {network.PortMapping{HostPort: 80}, network.PortMapping{HostPort: 81}, false},
		"another protocol":        {network.PortMapping{HostPort: 80}, network.PortMapping{HostPort: 80, Protocol: "udp"}, false},
		"one address of all":      {network.PortMapping{HostPort: 80, HostIP: "127.0.0.1"}, network.PortMapping{HostPort: 80}, true},
		"one address of a family": {network.PortMapping{HostPort: 80, HostIP: "127.0.0.1"}, network.PortMapping{HostPort: 80, HostIP: "0.0.0.0"}, true},
		"another address":         {network.PortMapping{HostPort: 80, HostIP: "127.0.0.1"}, network.PortMapping{HostPort: 80, HostIP: "127.0.0.2"}, false},
		"another family":          {network.PortMapping{HostPort: 80, HostIP: "127.0.0.1"}, network.PortMapping{HostPort: 80, HostIP: "::"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, got := range []bool{clash(test.a, []network.PortMapping{{HostPort: 1}, test.b}), clash(test.b, []network.PortMapping{test.a})} {
				if got != test.want {
					t.Errorf("got %t, want %t", got, test.want)
				}
			}
		})
	}
}

func TestListenedOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := int32(l.Addr().(*net.TCPAddr).Port)
	for _, ip := range []string{"127.0.0.1", "", "0.0.0.0"} {
		if p := (network.PortMapping{HostIP: ip, HostPort: port}); !listenedOn(t.Context(), p) {
			t.Errorf("%s is not listened on", hostPortName(p))
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p := (network.PortMapping{HostIP: "127.0.0.1", HostPort: port}); listenedOn(t.Context(), p) {
		t.Errorf("%s is still listened on", hostPortName(p))
	}
}
