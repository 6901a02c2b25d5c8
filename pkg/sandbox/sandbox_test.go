package sandbox

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

func TestLifeOfASandbox(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	hostNet := namespaceOf(t, "/proc/self/ns/net")
	p := params("web")
	p.Hostname = "web-0"
	p.Labels = map[string]string{"a": "b"}
	p.DNS = &DNS{Servers: []string{"10.0.0.10", "fd00::10"}, Searches: []string{"a.local", "b.local"}, Options: []string{"ndots:5"}}
	p.PortMappings = []network.PortMapping{
		{HostPort: 0, ContainerPort: 80, Protocol: "tcp"},
		{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
	}
	p.ShmSize = 1 << 20
	p.Request = []byte{0, 1, 0xff}

	s, err := m.Create(t.Context(), "web", p)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.List()) != 0 || s.Status().State != Creating {
		t.Errorf("a sandbox that is not ready is listed, or is %s", s.Status().State)
	}
	if got, ok := m.Lookup(p.Key); !ok || got != s {
		t.Error("Lookup does not find a sandbox being created")
	}
	for range 2 {
		if err := s.MarkReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.Labels["a"] = "changed by the caller"
	st := s.Status()
	if st.State != Ready || !slices.Equal(st.IPs, fakeIPs) || st.Params.Labels["a"] != "b" || len(m.List()) != 1 {
		t.Errorf("status of a ready sandbox: %+v", st)
	}
	want := []network.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
	if diff := cmp.Diff(want, n.net.attached["web"].PortMappings); diff != "" {
		t.Error(diff)
	}
	checkFiles(t, st)
	checkNamespaces(t, st)
	if got := namespaceOf(t, "/proc/self/ns/net"); got != hostNet {
		t.Error("the process is in another network namespace than before")
	}

	for range 2 {
		if err := m.Stop(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
	}
	st = s.Status()
	if st.State != NotReady || st.IPs != nil || st.NetworkResult != nil || len(m.List()) != 1 || n.net.has("web") {
		t.Errorf("status of a stopped sandbox: %+v", st)
	}
	if err := s.MarkReady(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("MarkReady of a stopped sandbox: %v", err)
	}
	remove(t, m, "web", "web", "never-was")
	if _, err := m.Get("web"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get of a removed sandbox: %v", err)
	}
	n.clean(t, m)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := m.Create(t.Context(), "late", p); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Create after Close: %v", err)
	}
}

func checkFiles(t *testing.T, st Status) {
	t.Helper()
	for path, want := range map[string]string{
		st.Files.ResolvConf: "nameserver 10.0.0.10\nnameserver fd00::10\nsearch a.local b.local\noptions ndots:5\n",
		st.Files.Hostname:   "web-0\n",
		st.Files.Hosts:      localHosts + "10.1.2.3\tweb-0\nfd00::3\tweb-0\n",
	} {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
		if info, _ := os.Stat(path); info.Mode() != 0o644 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
	}
	if info, _ := os.Stat(filepath.Dir(st.Files.Shm)); info.Mode().Perm() != 0o700 {
		t.Errorf("state directory has mode %s", info.Mode())
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(st.Files.Shm, &fs); err != nil {
		t.Fatal(err)
	}
	const flags = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if fs.Type != unix.TMPFS_MAGIC || fs.Blocks*uint64(fs.Bsize) != 1<<20 || fs.Flags&flags != flags {
		t.Errorf("shm is %+v", fs)
	}
	if info, _ := os.Stat(st.Files.Shm); info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("shm has mode %s", info.Mode())
	}
}

func checkNamespaces(t *testing.T, st Status) {
	t.Helper()
	for path, host := range map[string]string{st.Namespaces.Net: "net", st.Namespaces.IPC: "ipc", st.Namespaces.UTS: "uts"} {
		if namespaceOf(t, path) == namespaceOf(t, "/proc/self/ns/"+host) {
			t.Errorf("%s is the host's", path)
		}
	}
	inside(t, st.Namespaces, func() error {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		if name != "web-0" {
			t.Errorf("hostname is %q", name)
		}
		for path, want := range map[string]string{
			"net/ipv4/ip_unprivileged_port_start": "0\n",
			"net/ipv4/ping_group_range":           "0\t2147483647\n",
		} {
			if got, err := readSysctl(path); err != nil || got != want {
				t.Errorf("%s is %q %v", path, got, err)
			}
		}
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		if len(links) != 1 || links[0].Name != "lo" || links[0].Flags&net.FlagUp == 0 {
			t.Errorf("links are %v", links)
		}
		return nil
	})
}

func TestHostModes(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := readHostFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name             string
		network, ipc     bool
		net, ipcns, uts  bool
		hostname, hosts  string
		attached, hasShm bool
	}{
		{"none", false, false, true, true, true, "none", localHosts, true, true},
		{"network", true, false, false, true, false, host, string(hosts), false, true},
		{"ipc", false, true, true, false, true, "ipc", localHosts, true, false},
		{"both", true, true, false, false, false, host, string(hosts), false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := params(test.name)
			p.HostNetwork, p.HostIPC = test.network, test.ipc
			p.PortMappings = []network.PortMapping{{HostPort: 99, ContainerPort: 80, Protocol: "tcp"}}
			st := ready(t, m, test.name, p).Status()
			for _, pin := range []struct {
				path, name string
				want       bool
			}{
				{st.Namespaces.Net, "netns", test.net},
				{st.Namespaces.IPC, "ipcns", test.ipcns},
				{st.Namespaces.UTS, "utsns", test.uts},
			} {
				mounted, err := pinned(filepath.Join(m.stateOf(test.name), pin.name))
				if err != nil || mounted != pin.want || (pin.path != "") != pin.want {
					t.Errorf("%s: pinned %v, path %q, %v", pin.name, mounted, pin.path, err)
				}
			}
			if test.hasShm == (st.Files.Shm == "/dev/shm") {
				t.Errorf("shm is %s", st.Files.Shm)
			}
			if b, _ := os.ReadFile(st.Files.Hostname); string(b) != test.hostname+"\n" {
				t.Errorf("hostname is %q", b)
			}
			if b, _ := os.ReadFile(st.Files.Hosts); !strings.HasPrefix(string(b), test.hosts) {
				t.Errorf("hosts is %q", b)
			}
			if n.net.has(test.name) != test.attached || (len(st.IPs) > 0) != test.attached {
				t.Errorf("attached %v, addresses %v", n.net.has(test.name), st.IPs)
			}
			remove(t, m, test.name)
			n.clean(t, m)
		})
	}
}

// The defaults of files: what a request that says nothing gets.
func TestDefaultFiles(t *testing.T) {
	n := newNode(t)
	n.HostResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(n.HostResolvConf, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	m := n.start(t)
	p := params("My_Pod." + strings.Repeat("x", 80))
	p.DNS = &DNS{}
	st := ready(t, m, "d", p).Status()
	if b, _ := os.ReadFile(st.Files.ResolvConf); string(b) != "nameserver 192.0.2.1\n" {
		t.Errorf("resolv.conf is %q", b)
	}
	want := "My-Pod." + strings.Repeat("x", 56)
	if b, _ := os.ReadFile(st.Files.Hostname); string(b) != want+"\n" {
		t.Errorf("hostname is %q", b)
	}
	if b, _ := os.ReadFile(st.Files.Hosts); !strings.HasSuffix(string(b), "10.1.2.3\t"+want+" My-Pod\nfd00::3\t"+want+" My-Pod\n") {
		t.Errorf("hosts is %q", b)
	}
	for _, path := range []string{st.Files.ResolvConf, st.Files.Hostname, st.Files.Hosts} {
		if info, _ := os.Stat(path); info.Mode() != 0o644 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(st.Files.Shm, &fs); err != nil || fs.Blocks*uint64(fs.Bsize) != 64<<20 {
		t.Errorf("shm has %d bytes, %v", fs.Blocks*uint64(fs.Bsize), err)
	}
	remove(t, m, "d")
	n.clean(t, m)
}

// A file of the host that is no file, or has no end, must not hold up a pod.
func TestHostFileIsHostile(t *testing.T) {
	dir := t.TempDir()
	fifo, huge := filepath.Join(dir, "fifo"), filepath.Join(dir, "huge")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, huge, "/dev/zero", dir} {
		if _, err := readHostFile(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
	if b, err := readHostFile(filepath.Join(dir, "none")); err != nil || len(b) > 0 {
		t.Errorf("missing file: %q %v", b, err)
	}
}

func TestKeys(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	p := params("a")
	first := ready(t, m, "a1", p)
	if _, err := m.Create(t.Context(), "a1", params("b")); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("same id: %v", err)
	}
	if _, err := m.Create(t.Context(), "a2", p); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("same key while ready: %v", err)
	}
	if err := m.Stop(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	second, err := m.Create(t.Context(), "a2", p)
	if err != nil {
		t.Fatalf("same key after the first was stopped: %v", err)
	}
	if s, ok := m.Lookup(p.Key); !ok || s != second || !second.Status().CreatedAt.After(first.Status().CreatedAt) {
		t.Errorf("Lookup found %v", s)
	}
	remove(t, m, "a2")
	if s, ok := m.Lookup(p.Key); !ok || s != first {
		t.Errorf("Lookup after the removal of the second: %v", s)
	}
	remove(t, m, "a1")
	if _, ok := m.Lookup(p.Key); ok {
		t.Error("Lookup finds a removed sandbox")
	}
	n.clean(t, m)
}
