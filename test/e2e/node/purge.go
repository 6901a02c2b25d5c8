package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// InvariantConfig tells the checker where this node keeps its things.
func (n *Node) InvariantConfig() invariant.Config {
	pid := 0
	if p, err := n.Daemon(); err == nil {
		pid = p.PID
	}
	return invariant.Config{
		Root: n.Root, State: n.State, Bridge: n.Bridge, LeaseDir: n.leaseDir, Subnets: n.Subnets,
		CgroupParents: []string{n.CgroupParent}, Daemon: pid,
	}
}

// Purge takes away everything of the node by force, and its directory.
func (n *Node) Purge(ctx context.Context) error {
	n.disconnect(ctx)
	if n.daemon != nil && n.daemon.Process != nil {
		if err := n.Kill(); err != nil {
			return err
		}
	}
	return errors.Join(n.sweep(ctx), n.dropRules(ctx), os.RemoveAll(n.Dir))
}

// sweep ends the node's processes and removes its mounts, bridge and cgroups.
// Network namespaces, and with them the veths, go with their pins.
func (n *Node) sweep(ctx context.Context) error {
	if err := n.killAll(); err != nil {
		return err
	}
	return errors.Join(n.unmountAll(), n.dropBridge(), n.dropCgroups(), ctx.Err())
}

func (n *Node) killAll() error {
	// A process may fork while we look: look until there is none.
	for range 20 {
		inCgroup, err := usage.InCgroup(n.CgroupParent)
		if err != nil {
			return err
		}
		named, err := usage.Match(n.State)
		if err != nil {
			return err
		}
		inDir, err := usage.Match(n.Root)
		if err != nil {
			return err
		}
		all := slices.Concat(inCgroup, named, inDir)
		if len(all) == 0 {
			return nil
		}
		if err := kill(all...); err != nil {
			return err
		}
	}
	return errors.New("processes of the node keep coming back")
}

func (n *Node) unmountAll() error {
	facts, err := mountPoints(n.Dir)
	if err != nil {
		return err
	}
	slices.Reverse(facts) // the last mounted first
	var errs []error
	for _, point := range facts {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// mountPoints lists the mounts below a directory, in the order of mounting.
func mountPoints(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	return points, nil
}

func (n *Node) dropBridge() error {
	link, err := netlink.LinkByName(n.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	} else if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

func (n *Node) dropCgroups() error {
	roots, err := invariant.CgroupMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(root, n.CgroupParent), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs) // children first
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", d, err))
			}
		}
	}
	return errors.Join(errs...)
}

// dropRules deletes the address translation rules a broken daemon left, in the
// iptables form. The rules of a chain are numbered in the order -S lists them.
func (n *Node) dropRules(ctx context.Context) error {
	for _, tool := range []string{"iptables", "ip6tables"} {
		out, err := exec.CommandContext(ctx, tool, "-t", "nat", "-S").Output()
		if err != nil {
			continue // a machine without it has none of its rules
		}
		lines := strings.Split(string(out), "\n")
		number := map[string]int{}
		type rule struct {
			chain string
			n     int
		}
		var ours []rule
		for _, line := range lines {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "-A" {
				continue
			}
			number[fields[1]]++
			if n.namedIn(line) {
				ours = append(ours, rule{fields[1], number[fields[1]]})
			}
		}
		slices.Reverse(ours) // a deletion renumbers what follows
		for _, r := range ours {
			if err := exec.CommandContext(ctx, tool, "-t", "nat", "-D", r.chain, fmt.Sprint(r.n)).Run(); err != nil {
				return fmt.Errorf("delete rule %d of %s: %w", r.n, r.chain, err)
			}
		}
	}
	return nil
}

// namedIn reports whether a rule names the node's network or an address of it.
func (n *Node) namedIn(rule string) bool {
	if strings.Contains(rule, n.networkName()) {
		return true
	}
	return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool {
		prefix := strings.TrimSuffix(p.Masked().Addr().String(), "0")
		return strings.Contains(rule, " "+prefix)
	})
}
