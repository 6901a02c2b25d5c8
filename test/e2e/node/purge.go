package node

import (
	"context"
	"errors"
	"fmt"
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
		Root: n.Root, State: n.State, Bridge: n.Bridge, LeaseDir: n.leaseDir, Subnets: n.Subnets, Network: n.network,
		CgroupParents: []string{n.CgroupParent}, Daemon: pid, Socket: n.socket, Log: filepath.Join(n.Dir, "daemon.log"),
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
	err := errors.Join(n.sweep(ctx), n.dropRules(ctx), os.RemoveAll(n.Dir))
	if n.sweeper != nil {
		err = errors.Join(err, n.sweeper.release())
	}
	return err
}

// sweep ends the node's processes and removes its mounts, bridge and cgroups.
// Network namespaces, and with them the veths, go with their pins.
func (n *Node) sweep(ctx context.Context) error {
	if err := n.killAll(); err != nil {
		return err
	}
	return errors.Join(n.unmountAll(), n.dropBridge(), n.stopSlices(ctx), n.dropCgroups(), ctx.Err())
}

func (n *Node) killAll() error {
	if err := n.thawAll(); err != nil {
		return err
	}
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

// thawAll lets paused processes go on: version 1 of the freezer keeps them even
// from SIGKILL.
func (n *Node) thawAll() error {
	roots, err := invariant.CgroupMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		_ = filepath.WalkDir(filepath.Join(root, n.CgroupParent), func(path string, d os.DirEntry, err error) error {
			word := map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"}
			if err == nil && word[d.Name()] != "" {
				if err := os.WriteFile(path, []byte(word[d.Name()]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
					errs = append(errs, err)
				}
			}
			return nil
		})
	}
	return errors.Join(errs...)
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

// stopSlices makes systemd forget the node's slices, and with them what is below.
func (n *Node) stopSlices(ctx context.Context) error {
	if !Systemd() {
		return nil
	}
	out, err := exec.CommandContext(ctx, "systemctl", "stop", n.cgroupRoot()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("stop slice %s: %w: %s", n.cgroupRoot(), err, out)
	}
	return nil
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

// dropRules deletes the packet filter rules a broken daemon left. They name the
// network, whose name no other node has.
func (n *Node) dropRules(ctx context.Context) error {
	var errs []error
	for _, tool := range []string{"iptables", "ip6tables"} {
		errs = append(errs, n.dropIptables(ctx, tool))
	}
	return errors.Join(append(errs, n.dropNftables(ctx))...)
}

// dropIptables deletes by number; -S lists the rules of a chain in their order.
func (n *Node) dropIptables(ctx context.Context, tool string) error {
	out, err := exec.CommandContext(ctx, tool, "-t", "nat", "-S").Output()
	if err != nil {
		return nil //nolint:nilerr // a machine without it has none of its rules
	}
	number := map[string]int{}
	var ours [][]string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "-A" {
			continue
		}
		number[fields[1]]++
		if strings.Contains(line, n.network) {
			ours = append(ours, []string{"-t", "nat", "-D", fields[1], fmt.Sprint(number[fields[1]])})
		}
	}
	slices.Reverse(ours) // a deletion renumbers what follows
	for _, r := range ours {
		if err := exec.CommandContext(ctx, tool, r...).Run(); err != nil {
			return fmt.Errorf("delete rule %q: %w", r, err)
		}
	}
	return nil
}

// dropNftables deletes by handle.
func (n *Node) dropNftables(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "nft", "-a", "list", "ruleset").Output()
	if err != nil {
		return nil //nolint:nilerr // a machine without it has none of its rules
	}
	var table, chain []string
	var errs []error
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 2 && fields[0] == "table":
			table = fields[1:3]
		case len(fields) > 1 && fields[0] == "chain":
			chain = fields[1:2]
		case strings.Contains(line, n.network) && len(fields) > 2 && fields[len(fields)-2] == "handle":
			args := slices.Concat([]string{"delete", "rule"}, table, chain, fields[len(fields)-2:])
			if err := exec.CommandContext(ctx, "nft", args...).Run(); err != nil {
				errs = append(errs, fmt.Errorf("delete rule %q: %w", args, err))
			}
		}
	}
	return errors.Join(errs...)
}
