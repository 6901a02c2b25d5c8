package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// enableForwarding lets the host route packets of addr's family.
func enableForwarding(addr net.IP) error {
	if addr.To4() != nil {
		return ensureSysctl("ipv4/ip_forward", "1")
	}
	const key = "ipv6/conf/all/forwarding"
	if now, err := readSysctl(key); err != nil || now == "1" {
		return err
	}
	// A host that forwards ignores router advertisements unless told
	// otherwise, and would lose its own default route minutes later.
	confs, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range confs {
		key := strings.TrimPrefix(path, "/proc/sys/net/")
		if now, err := readSysctl(key); err == nil && now == "1" {
			if err := setSysctl(key, "2"); err != nil {
				return err
			}
		}
	}
	return setSysctl(key, "1")
}

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile("/proc/sys/net/" + key)
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// setSysctl sets a key below net in the namespace of this thread. A key that
// the kernel does not have, for example without IPv6, needs no value.
func setSysctl(key, value string) error {
	// Not os.WriteFile: asked to create a file, proc says EACCES, not ENOENT.
	f, err := os.OpenFile("/proc/sys/net/"+key, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return nil
}

// ensureSysctl is for keys that mostly have their value already, and which the
// kernel takes rtnl to write.
func ensureSysctl(key, value string) error {
	if now, err := readSysctl(key); err == nil && now == value {
		return nil
	}
	return setSysctl(key, value)
}
