package invariant

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// hostSettings are what a container would change if it were let out.
var hostSettings = []string{
	"fs/mqueue/msg_max", "fs/mqueue/queues_max", "fs/suid_dumpable",
	"kernel/core_pattern", "kernel/domainname", "kernel/hostname", "kernel/modprobe",
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/panic", "kernel/randomize_va_space",
	"kernel/sem", "kernel/shm_rmid_forced", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
	"net/ipv4/ip_local_port_range", "net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range",
	"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/core/somaxconn", "vm/overcommit_memory",
}

var hostFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/passwd", "/etc/group"}

// Host reads the settings and files of the machine that a node must leave alone;
// of files, the hash. What does not exist has the value "none".
func Host() (map[string]string, error) {
	all := map[string]string{}
	var errs []error
	read := func(path string, value func([]byte) string) {
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			all[path] = "none"
		case err != nil:
			errs = append(errs, err)
		default:
			all[path] = value(data)
		}
	}
	for _, name := range hostSettings {
		read("/proc/sys/"+name, func(data []byte) string { return strings.TrimSpace(string(data)) })
	}
	for _, path := range hostFiles {
		read(path, func(data []byte) string { return fmt.Sprintf("sha256 %x", sha256.Sum256(data)) })
	}
	return all, errors.Join(errs...)
}

// CheckHost compares the host with what it was. Forwarding may be turned on, as
// pods need it, and becomes what it was; it may not be turned off.
func CheckHost(was, now map[string]string) []string {
	var wrong []string
	for _, path := range slices.Sorted(maps.Keys(was)) {
		if strings.HasSuffix(path, "forward") || strings.HasSuffix(path, "forwarding") {
			if now[path] == "1" {
				was[path] = "1"
			}
		}
		if was[path] != now[path] {
			wrong = append(wrong, fmt.Sprintf("%s of the host was %q and is %q", path, was[path], now[path]))
		}
	}
	return wrong
}
