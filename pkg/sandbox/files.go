package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	resolvConfName = "resolv.conf"
	hostsName      = "hosts"
	hostnameName   = "hostname"
	shmName        = "shm"

	// maxHostFile bounds what is copied from the host's /etc.
	maxHostFile = 256 << 10
	// defaultShmSize is what Docker made the custom; below minShmSize the
	// pod's files, which share the tmpfs, might not fit.
	defaultShmSize = 64 << 20
	minShmSize     = 1 << 20
	hostShm        = "/dev/shm"
)

// hostname chooses the pod's name: the one asked for, else the pod's made fit,
// else the host's. In the host's UTS namespace it is the host's.
func hostname(p Params) (string, error) {
	if !p.HostNetwork {
		if p.Hostname != "" {
			return p.Hostname, nil
		}
		if name := fitHostname(p.Name); name != "" {
			return name, nil
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("read the host's name: %w", err)
	}
	if !hostnamePattern.MatchString(host) {
		host = "localhost"
	}
	return host, nil
}

// fitHostname makes a DNS label of at most 63 bytes from any string.
func fitHostname(name string) string {
	fit := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, name)
	return strings.Trim(fit[:min(len(fit), 63)], ".-")
}

// writeStaticFiles writes what does not depend on the network.
func (m *Manager) writeStaticFiles(dir string, p Params, name string) error {
	resolv, err := m.resolvConf(p.DNS)
	if err != nil {
		return err
	}
	return errors.Join(
		writeShared(filepath.Join(dir, resolvConfName), resolv, p.UserNS),
		writeShared(filepath.Join(dir, hostnameName), []byte(name+"\n"), p.UserNS),
	)
}

// resolvConf writes one line of each kind, as kubelet's own fake does; every
// word in them has been validated. Without any it is the host's file.
func (m *Manager) resolvConf(dns *DNS) ([]byte, error) {
	if dns.empty() {
		return readHostFile(m.config.HostResolvConf)
	}
	var b bytes.Buffer
	for _, s := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return b.Bytes(), nil
}

// localHosts are the lines that kubelet, too, begins its hosts files with.
const localHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
fe00::0	ip6-mcastprefix
fe00::1	ip6-allnodes
fe00::2	ip6-allrouters
`

// writeHosts writes the hosts file once the addresses are known.
func (m *Manager) writeHosts(dir string, st *Status, name string) error {
	hosts, err := m.hosts(st, name)
	if err != nil {
		return err
	}
	return writeShared(filepath.Join(dir, hostsName), hosts, st.Params.UserNS)
}

// hosts is the content of the hosts file. In the host's network it begins with
// the host's.
func (m *Manager) hosts(st *Status, name string) ([]byte, error) {
	b := bytes.NewBufferString(localHosts)
	if st.Params.HostNetwork {
		host, err := readHostFile(m.config.HostHosts)
		if err != nil {
			return nil, err
		}
		if b = bytes.NewBuffer(host); len(host) > 0 && host[len(host)-1] != '\n' {
			b.WriteByte('\n')
		}
	}
	names := name
	if short, _, dotted := strings.Cut(name, "."); dotted {
		names += " " + short
	}
	for _, ip := range st.IPs {
		fmt.Fprintf(b, "%s\t%s\n", ip, names)
	}
	for _, line := range slices.Concat(st.Params.ExtraHosts, st.Hosts) {
		fields := strings.Fields(line)
		address := fields[0]
		if address == HostGateway {
			if address = gateway(st); address == "" {
				continue // it cannot reach the machine
			}
		}
		fmt.Fprintf(b, "%s\t%s\n", address, strings.Join(fields[1:], " "))
	}
	return b.Bytes(), nil
}

// gateway is the machine as the pod sees it, or "".
func gateway(st *Status) string {
	if st.Params.HostNetwork {
		return "127.0.0.1"
	}
	var result struct {
		IPs []struct {
			Gateway netip.Addr `json:"gateway"`
		} `json:"ips"`
	}
	if len(st.NetworkResult) == 0 || json.Unmarshal(st.NetworkResult, &result) != nil {
		return ""
	}
	for _, ip := range result.IPs {
		if ip.Gateway.IsValid() {
			return ip.Gateway.String()
		}
	}
	return ""
}

// rewriteShared replaces the content of a file that others have open, or
// mounted, and so keeps the file. Who reads it meanwhile sees the old or the new
// lines, or empty ones at the end: a shorter content first gets as long as the
// old one, and the write is one.
func rewriteShared(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	padded := data
	if missing := min(info.Size(), maxHostFile) - int64(len(data)); missing > 0 {
		padded = append(slices.Clone(data), bytes.Repeat([]byte{'\n'}, int(missing))...)
	}
	if _, err := f.WriteAt(padded, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(data)))
}

// readHostFile reads a small regular file of the host; none is an empty one.
func readHostFile(path string) ([]byte, error) {
	// O_NONBLOCK: a FIFO in its place must not hold up a pod.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := readRegular(f)
	return b, errors.Join(err, f.Close())
}

func readRegular(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file but %s", f.Name(), info.Mode())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxHostFile+1))
	if err == nil && len(b) > maxHostFile {
		err = fmt.Errorf("read %s: more than %d bytes", f.Name(), maxHostFile)
	}
	return b, err
}

// writeShared writes a file that containers read, whatever users they run as
// and whatever the umask is. It belongs to their root. Nobody reads it before
// the sandbox is ready.
func writeShared(path string, data []byte, owner *UserNS) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if owner != nil {
		err = errors.Join(err, f.Chown(owner.Root()))
	}
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// makeShm makes the pod's /dev/shm, a directory of its tmpfs.
func makeShm(dir string, owner *UserNS) error {
	path := filepath.Join(dir, shmName)
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if owner != nil {
		if err := chownRoot(path, owner); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o777|os.ModeSticky) // past the umask
}

// chownRoot gives a file to the root of a user namespace.
func chownRoot(path string, owner *UserNS) error {
	uid, gid := owner.Root()
	return os.Lchown(path, uid, gid)
}
