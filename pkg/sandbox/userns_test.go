package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// A pod with a user namespace has all its namespaces in it, set up as those of
// any other pod are, and its root has its files.
func TestUserNS(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	p := params("x")
	p.UserNS, p.Hostname = mappedIDs(), "mapped"
	p.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "11", "net.ipv4.conf.all.forwarding": "1"}
	before := processes(t)
	st := ready(t, m, "x", p).Status()
	if left := slices.DeleteFunc(processes(t), func(s string) bool { return slices.Contains(before, s) }); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
	user := namespaceOf(t, st.Namespaces.User)
	for _, path := range []string{st.Namespaces.Net, st.Namespaces.IPC, st.Namespaces.UTS} {
		if got := ownerOf(t, path); got != user {
			t.Errorf("%s belongs to %s, not to %s", path, got, user)
		}
	}
	inside(t, st.Namespaces, func() error {
		name, err := os.ReadFile("/proc/sys/kernel/hostname")
		if string(name) != "mapped\n" {
			t.Errorf("hostname is %q, %v", name, err)
		}
		for path, want := range map[string]string{
			"kernel/shm_rmid_forced": "1", "fs/mqueue/msg_max": "11", "net/ipv4/conf/all/forwarding": "1",
			"net/ipv4/ping_group_range": "300000\t365535", "net/ipv4/ip_unprivileged_port_start": "0",
		} {
			if got, err := readSysctl(path); err != nil || strings.TrimSpace(got) != want {
				t.Errorf("%s is %q, %v", path, got, err)
			}
		}
		return nil
	})
	for _, path := range []string{st.Files.Hosts, st.Files.Hostname, st.Files.ResolvConf, st.Files.Shm} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 200000 || s.Gid != 300000 {
			t.Errorf("%s belongs to %d:%d", path, s.Uid, s.Gid)
		}
	}
	m = n.start(t)
	if s, err := m.Get("x"); err != nil || s.Status().State != Ready || s.Status().Namespaces != st.Namespaces {
		t.Errorf("after a restart: %v", err)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// With the host's network, its name and its network stay the host's.
func TestUserNSHostNetwork(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	p := params("x")
	p.UserNS, p.HostNetwork = mappedIDs(), true
	st := ready(t, m, "x", p).Status()
	if st.Namespaces.Net+st.Namespaces.UTS != "" || ownerOf(t, st.Namespaces.IPC) != namespaceOf(t, st.Namespaces.User) {
		t.Errorf("namespaces are %+v", st.Namespaces)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// What fails half way leaves nothing, the holder included.
func TestUserNSFails(t *testing.T) {
	for name, change := range map[string]func(*Config, *Params){
		"no holder":      func(c *Config, _ *Params) { c.Holder = nil },
		"missing holder": func(c *Config, _ *Params) { c.Holder = []string{"/no/such/program"} },
		"bad sysctl":     func(_ *Config, p *Params) { p.Sysctls = map[string]string{"kernel.msgmax": "words"} },
		"ids of nobody":  func(_ *Config, p *Params) { p.Sysctls = map[string]string{"net.ipv4.ping_group_range": "0 70000"} },
		"two mappings":   func(_ *Config, p *Params) { p.UserNS.UIDs = append(p.UserNS.UIDs, p.UserNS.UIDs...) },
		"no root":        func(_ *Config, p *Params) { p.UserNS.GIDs[0].ContainerID = 1 },
		"host's root":    func(_ *Config, p *Params) { p.UserNS.GIDs[0].HostID = 0 },
		"nothing":        func(_ *Config, p *Params) { p.UserNS.GIDs[0].Length = 0 },
		"too much":       func(_ *Config, p *Params) { p.UserNS.GIDs[0].HostID = 1<<32 - 2 },
		"host's IPC":     func(_ *Config, p *Params) { p.HostIPC = true },
		"host's PIDs":    func(_ *Config, p *Params) { p.HostPID = true },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			p := params("x")
			p.UserNS = mappedIDs()
			change(&n.Config, &p)
			m := n.start(t)
			before := processes(t)
			if _, err := m.Create(t.Context(), "x", p); err == nil {
				t.Error("created")
			} else if !strings.Contains(name, "holder") && !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("error is %v", err)
			}
			if left := slices.DeleteFunc(processes(t), func(s string) bool { return slices.Contains(before, s) }); len(left) > 0 {
				t.Errorf("processes left: %q", left)
			}
			n.clean(t, m)
		})
	}
}

// processes are the children of this process.
func processes(t *testing.T) []string {
	t.Helper()
	var all []string
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children") // threads come and go
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

// ownerOf is the user namespace that a namespace belongs to.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return namespaceOf(t, fmt.Sprintf("/proc/self/fd/%d", fd))
}

func TestHostIDs(t *testing.T) {
	ids := &linux.IDMappings{UIDs: []IDMap{{HostID: 10, Length: 5}, {ContainerID: 100, HostID: 1000, Length: 1}}}
	for id, want := range map[uint32]uint32{0: 10, 4: 14, 100: 1000} {
		if got, ok := ids.HostUID(id); !ok || got != want {
			t.Errorf("%d is %d, %v", id, got, ok)
		}
	}
	for _, id := range []uint32{5, 99, 101, 1<<32 - 1} {
		if got, ok := ids.HostUID(id); ok {
			t.Errorf("%d is %d", id, got)
		}
	}
	var none *linux.IDMappings
	if got, ok := none.HostGID(7); !ok || got != 7 {
		t.Errorf("without a user namespace 7 is %d", got)
	}
}
