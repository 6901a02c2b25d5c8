package cage

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LAN is the bridge that stands for the network between the nodes, and Host and
// Host6 the cage's addresses on it.
const (
	LAN   = "lan0"
	Host  = "172.30.0.1"
	Host6 = "fd00:172:30::1"
)

// settings are those that kubelet writes; they are the machine's.
var settings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// initialise is the first process of a cage: it makes the inside what it shall be
// and then waits for children that others have left to it, for ever.
func initialise(dir string) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for _, step := range []func(string) error{mounts, cover, network} {
		if err := step(dir); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("cri-node-cluster")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			<-children
		}
	}
}

// mounts gives the cage its own directories.
func mounts(dir string) error {
	mount := func(source, target, kind string, flags uintptr) error {
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
		return nil
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE); err != nil {
		return err
	}
	cgroups := filepath.Join(dir, "cgroup")
	if err := os.MkdirAll(cgroups, 0o755); err != nil {
		return err
	}
	err := errors.Join(
		mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC),
		// A new /sys shows the devices of the new network namespace.
		mount("/sys/fs/cgroup", cgroups, "", unix.MS_BIND|unix.MS_REC),
		mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC),
		mount(cgroups, "/sys/fs/cgroup", "", unix.MS_MOVE),
		mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV),
	)
	for name, target := range map[string]string{"lib": "/var/lib", "log": "/var/log"} {
		source := filepath.Join(dir, name)
		err = errors.Join(err, os.MkdirAll(source, 0o755), mount(source, target, "", unix.MS_BIND))
	}
	// kubelet's mounts must reach those who share them with it.
	return errors.Join(err, os.Remove(cgroups), mount("", "/", "", unix.MS_REC|unix.MS_SHARED))
}

// cover puts files over the kernel's settings. A second /proc stays as it is: the
// kernel lets a user namespace mount its own only where there is one.
func cover(dir string) error {
	whole := filepath.Join(dir, "proc")
	if err := os.MkdirAll(whole, 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", whole, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount second /proc: %w", err)
	}
	for _, name := range settings {
		setting := filepath.Join("/proc/sys", name)
		now, err := os.ReadFile(setting)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		file := filepath.Join(dir, "sysctl", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, now, 0o644)); err != nil {
			return err
		}
		if err := unix.Mount(file, setting, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", setting, err)
		}
	}
	return nil
}

// network makes the bridge between the nodes. What goes nowhere else goes there,
// too: an address of a service must have a route before it is translated.
func network(string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = LAN
	lan := &netlink.Bridge{LinkAttrs: attributes}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(lan)); err != nil {
		return fmt.Errorf("make bridge %s: %w", LAN, err)
	}
	for _, address := range []string{Host + "/24", Host6 + "/64"} {
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD // there is nobody yet to ask
		if err := netlink.AddrAdd(lan, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", address, LAN, err)
		}
	}
	if err := netlink.LinkSetUp(lan); err != nil {
		return fmt.Errorf("set up %s: %w", LAN, err)
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		_, to, err := net.ParseCIDR(all)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lan.Attrs().Index, Dst: to}); err != nil {
			return fmt.Errorf("add route to %s: %w", all, err)
		}
	}
	return nil
}
