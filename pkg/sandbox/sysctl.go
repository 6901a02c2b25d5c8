package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// defaultSysctls are set in every pod with a network namespace of its own: a
// program that is not root may bind port 80 and send pings, which in its own
// namespace harms nobody.
var defaultSysctls = map[string]string{
	"net.ipv4.ip_unprivileged_port_start": "0",
	"net.ipv4.ping_group_range":           "0 2147483647",
}

// pingGroupRange is the one sysctl whose value is ids of groups. They are
// those of whoever writes it, which is the host's root.
const pingGroupRange = "net/ipv4/ping_group_range"

// allGroups is the range of all groups of a user namespace, on the host.
func allGroups(m *UserNS) string {
	g := m.GIDs[0]
	return fmt.Sprintf("%d %d", g.HostID, g.HostID+(g.Length-1))
}

// hostGroups translates a range of a pod's groups. The value of a pod without
// a user namespace stays what it is.
func hostGroups(value string, m *UserNS) (string, error) {
	if m == nil {
		return value, nil
	}
	fields := strings.Fields(value)
	if len(fields) != 2 {
		return "", fmt.Errorf("%q is not two groups: %w", value, errdefs.ErrInvalidArgument)
	}
	for i, f := range fields {
		n, err := strconv.ParseUint(f, 10, 32)
		host, ok := m.HostGID(uint32(n)) // of no use with err
		if err != nil || !ok {
			return "", fmt.Errorf("%q is no group of the pod's user namespace: %w", f, errdefs.ErrInvalidArgument)
		}
		fields[i] = strconv.FormatUint(uint64(host), 10)
	}
	return strings.Join(fields, " "), nil
}

// sysctl is one value to write.
type sysctl struct {
	path  string // below /proc/sys
	value string
	// optional sysctls are defaults; a kernel need not have them.
	optional bool
}

// parseSysctl turns a key of either spelling into a path below /proc/sys and
// refuses all that is not namespaced, or is not in a namespace of this pod.
// Only this list of keys makes sysctls safe (CVE-2022-0811): values are not
// interpreted here, and each is written alone to its own file.
func parseSysctl(key, value string, p Params) (sysctl, error) {
	invalid := func(why string) error {
		return fmt.Errorf("sysctl %.200q: %s: %w", key, why, errdefs.ErrInvalidArgument)
	}
	parts, ok := sysctlPath(key)
	if !ok {
		return sysctl{}, invalid("not a sysctl name")
	}
	if len(value) > maxSysctlValue {
		return sysctl{}, invalid(fmt.Sprintf("value of %d bytes, at most %d", len(value), maxSysctlValue))
	}
	// Tabs separate the numbers of a value where the kernel prints it.
	if strings.ContainsFunc(value, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) {
		return sysctl{}, invalid("value has a control character")
	}
	path := strings.Join(parts, "/")
	switch {
	case parts[0] == "net":
		if p.HostNetwork {
			return sysctl{}, invalid("would change the host, whose network the pod uses") // CVE-2022-0532
		}
	case path == "kernel/sem",
		len(parts) == 2 && (strings.HasPrefix(path, "kernel/shm") || strings.HasPrefix(path, "kernel/msg")),
		strings.HasPrefix(path, "fs/mqueue/"):
		if p.HostIPC {
			return sysctl{}, invalid("would change the host, whose IPC namespace the pod uses")
		}
	default:
		return sysctl{}, invalid("not allowed: it is not known to belong to a namespace")
	}
	return sysctl{path: path, value: value}, nil
}

// sysctlPath splits a key as sysctl(8) does: the first separator in it is the
// separator, the other one stands for a dot in a name, as in
// net.ipv4.conf.eth0/100.forwarding and net/ipv4/conf/eth0.100/forwarding.
func sysctlPath(key string) (parts []string, ok bool) {
	first := strings.IndexAny(key, "./")
	if first < 0 || len(key) > 255 {
		return nil, false
	}
	if key[first] == '.' {
		parts = strings.Split(key, ".")
		for i := range parts {
			parts[i] = strings.ReplaceAll(parts[i], "/", ".")
		}
	} else {
		parts = strings.Split(key, "/")
	}
	for _, p := range parts {
		if p == "." || p == ".." || !isWord(p) {
			return nil, false
		}
	}
	return parts, true
}

// sysctls returns what to write for p, defaults first, so that the pod's own
// values win. p has been validated.
func (m *Manager) sysctls(p Params) ([]sysctl, error) {
	var all []sysctl
	if !p.HostNetwork {
		for key, value := range m.config.DefaultSysctls {
			s, err := parseSysctl(key, value, p)
			if err != nil {
				return nil, fmt.Errorf("default %w", err)
			}
			s.optional = true
			if s.path == pingGroupRange && p.UserNS != nil {
				s.value = allGroups(p.UserNS)
			}
			all = append(all, s)
		}
	}
	for key, value := range p.Sysctls {
		s, err := parseSysctl(key, value, p)
		if err != nil {
			return nil, err
		}
		if s.path == pingGroupRange {
			if s.value, err = hostGroups(s.value, p.UserNS); err != nil {
				return nil, fmt.Errorf("sysctl %s: %w", key, err)
			}
		}
		all = append(all, s)
	}
	// One order for all time: some values bound others, and an error must
	// not come and go with the order of a map.
	slices.SortFunc(all, func(a, b sysctl) int {
		if a.optional != b.optional {
			if a.optional {
				return -1
			}
			return 1
		}
		return strings.Compare(a.path, b.path)
	})
	return all, nil
}

// writeSysctls writes to the namespaces of the calling thread: /proc/sys shows
// each task its own. Some of a user namespace's belong to its root, whom the
// thread becomes for them; it is of no use for anything else afterwards.
func writeSysctls(all []sysctl, owner *UserNS) (err error) {
	if len(all) == 0 {
		return nil
	}
	root, err := unix.Open("/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/proc/sys", Err: err}
	}
	defer func() { err = errors.Join(err, unix.Close(root)) }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(root, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: "/proc/sys", Err: err}
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return errors.New("check /proc/sys: it is not of the proc file system")
	}
	var theirs []sysctl
	for _, s := range all {
		err := s.write(root)
		if owner != nil && errors.Is(err, unix.EACCES) {
			theirs = append(theirs, s)
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	uid, gid := owner.Root()
	return asUser(uid, gid, func() error {
		for _, s := range theirs {
			if err := s.write(root); err != nil {
				return err
			}
		}
		return nil
	})
}

// asUser runs f with the effective ids of another user on this thread alone,
// which the functions of package syscall do not do.
func asUser(uid, gid int, f func() error) error {
	set := func(call, id uintptr) error {
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(call, keep, id, keep); errno != 0 {
			return fmt.Errorf("become user %d:%d: %w", uid, gid, errno)
		}
		return nil
	}
	if err := set(unix.SYS_SETRESGID, uintptr(gid)); err != nil {
		return err
	}
	if err := set(unix.SYS_SETRESUID, uintptr(uid)); err != nil {
		return errors.Join(err, set(unix.SYS_SETRESGID, 0))
	}
	err := f()
	return errors.Join(err, set(unix.SYS_SETRESUID, 0), set(unix.SYS_SETRESGID, 0))
}

// write opens the file without leaving root on any way.
func (s sysctl) write(root int) error {
	how := unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := retryOpen(func() (int, error) { return unix.Openat2(root, s.path, &how) })
	if errors.Is(err, unix.ENOENT) && s.optional {
		return nil
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("sysctl %q: open: %w: %w", s.path, err, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("sysctl %q: open: %w", s.path, err)
	}
	// The newline lets an empty value be written, which clears a list.
	_, err = unix.Write(fd, []byte(s.value+"\n"))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("sysctl %q: write %q: %w", s.path, s.value, err)
	}
	return nil
}

// retryOpen repeats an open that a signal interrupted.
func retryOpen(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
