package lan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
)

// Machine is one more host on the network.
type Machine struct {
	// Name is that of its network namespace, IP its address and NetNS the path of
	// the namespace.
	Name, IP, NetNS string
}

// Join makes a machine; number, 2 to 250, is the last part of its address.
func Join(ctx context.Context, name string, number int) (*Machine, error) {
	m := &Machine{Name: name, IP: fmt.Sprintf("172.30.0.%d", number), NetNS: "/run/netns/" + name}
	if err := ip(ctx, "netns add", name); err != nil {
		return nil, err
	}
	err := m.run(ctx,
		"link add "+m.link()+" type veth peer name eth0 netns "+name,
		"link set "+m.link()+" master "+cage.LAN+" up",
		"-n "+name+" link set lo up",
		"-n "+name+" addr add "+m.IP+"/24 dev eth0",
		"-n "+name+" link set eth0 up",
		"-n "+name+" route add default via "+cage.Host,
	)
	if err != nil {
		return nil, errors.Join(err, m.Leave(context.WithoutCancel(ctx)))
	}
	return m, nil
}

func (m *Machine) link() string { return "lan-" + m.Name }

// Reach makes the pods of this machine and of the cage's own reach one another:
// theirs and ours are the networks of pods.
func (m *Machine) Reach(ctx context.Context, theirs, ours []netip.Prefix) error {
	var commands []string
	for _, p := range theirs {
		if p.Addr().Is4() {
			commands = append(commands, "route replace "+p.String()+" via "+m.IP)
		}
	}
	for _, p := range ours {
		if p.Addr().Is4() {
			commands = append(commands, "-n "+m.Name+" route replace "+p.String()+" via "+cage.Host)
		}
	}
	return m.run(ctx, commands...)
}

// Cut takes the machine off the network.
func (m *Machine) Cut(ctx context.Context) error { return ip(ctx, "link set", m.link(), "down") }

// Mend puts it back. Its routes are as before.
func (m *Machine) Mend(ctx context.Context) error { return ip(ctx, "link set", m.link(), "up") }

// Leave takes the machine away with its links and routes: at once, and not when
// the kernel has found the time to take the namespace apart.
func (m *Machine) Leave(ctx context.Context) error {
	return errors.Join(ip(ctx, "link del", m.link()), ip(ctx, "netns del", m.Name))
}

func (m *Machine) run(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		if err := ip(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func ip(ctx context.Context, words ...string) error {
	args := strings.Fields(strings.Join(words, " "))
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
