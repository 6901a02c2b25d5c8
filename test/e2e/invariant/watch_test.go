package invariant_test

import (
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/invariant"
)

func TestContainerPast(t *testing.T) {
	created := invariant.Container{ID: ctr, State: "CREATED", CreatedAt: 1}
	running := invariant.Container{ID: ctr, State: "RUNNING", CreatedAt: 1, StartedAt: 2}
	exited := invariant.Container{ID: ctr, State: "EXITED", CreatedAt: 1, StartedAt: 2, FinishedAt: 3, ExitCode: 4, Reason: "Error"}
	with := func(c invariant.Container, change func(*invariant.Container)) invariant.Container {
		change(&c)
		return c
	}
	for _, tc := range []struct {
		name string
		life []invariant.Container
		want string // "" is nothing wrong
	}{
		{"true", []invariant.Container{created, running, running, exited, exited}, ""},
		{"never started", []invariant.Container{created, {ID: ctr, State: "EXITED", CreatedAt: 1, FinishedAt: 3}}, ""},
		{"runs again", []invariant.Container{exited, running}, "was EXITED and is RUNNING"},
		{"other code", []invariant.Container{exited, with(exited, func(c *invariant.Container) { c.ExitCode = 0 })}, `and now with 0 "Error"`},
		{"other reason", []invariant.Container{exited, with(exited, func(c *invariant.Container) { c.Reason = "OOMKilled" })}, `"OOMKilled"`},
		{"other end", []invariant.Container{exited, with(exited, func(c *invariant.Container) { c.FinishedAt = 9 })}, "now from 2 to 9"},
		{"other creation", []invariant.Container{created, with(running, func(c *invariant.Container) { c.CreatedAt = 2 })}, "now at 2"},
		{"started before created", []invariant.Container{with(running, func(c *invariant.Container) { c.CreatedAt = 5 })}, "was started at 2"},
		{"finished before started", []invariant.Container{with(exited, func(c *invariant.Container) { c.StartedAt = 5 })}, "finished at 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := nodeIn(t.TempDir())
			w := watch(t, c)
			for _, one := range tc.life {
				w.See(one)
			}
			got := findings(t, w, c)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Fatalf("want %q, got %q", tc.want, got)
			}
		})
	}
}

// nodeIn is a node without a daemon: this process stands for it.
func nodeIn(dir string) invariant.Config {
	return invariant.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		Log: filepath.Join(dir, "log"), Daemon: os.Getpid()}
}

func watch(t *testing.T, c invariant.Config) *invariant.Watch {
	t.Helper()
	host, err := invariant.Host()
	if err != nil {
		t.Fatal(err)
	}
	w, err := invariant.NewWatch(host, c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func findings(t *testing.T, w *invariant.Watch, c invariant.Config) string {
	t.Helper()
	wrong, err := w.Check(c, nil, invariant.View{})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(wrong, "\n")
}

func TestHost(t *testing.T) {
	was, err := invariant.Host()
	if err != nil {
		t.Fatal(err)
	}
	forward, hosts := "/proc/sys/net/ipv4/ip_forward", "/etc/hosts"
	was[forward] = "0"
	now := maps.Clone(was)
	now[forward] = "1"
	if wrong := invariant.CheckHost(was, now); len(wrong) != 0 {
		t.Errorf("forwarding turned on: %q", wrong)
	}
	now[forward], now[hosts] = "0", "other"
	if wrong := invariant.CheckHost(was, now); len(wrong) != 2 {
		t.Errorf("forwarding turned off again and other hosts: %q", wrong)
	}
}

func TestResources(t *testing.T) {
	c := nodeIn(t.TempDir())
	w := watch(t, c)
	if got := findings(t, w, c); got != "" {
		t.Fatalf("before: %s", got)
	}
	for range 100 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
	if got := findings(t, w, c); !strings.Contains(got, "daemon has") {
		t.Errorf("100 open files: %q", got)
	}
	many := invariant.View{Containers: make([]invariant.Container, 100)}
	start := invariant.Resources{Descriptors: 10, Threads: 10}
	if got := invariant.CheckResources("daemon", start, invariant.Resources{Descriptors: 610, Threads: 30}, many); len(got) != 0 {
		t.Errorf("with 100 containers: %q", got)
	}
	if got := invariant.CheckResources("daemon", start, invariant.Resources{Descriptors: 10, Connections: 100, Threads: 100}, invariant.View{}); len(got) != 2 {
		t.Errorf("100 threads and connections: %q", got)
	}
}

func TestSecrets(t *testing.T) {
	const secret = "a-secret-of-this-test"
	c := nodeIn(t.TempDir())
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("so: "+secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Daemon = sleeper(t, secret)
	places := []string{filepath.Join(c.Root, "a/b"), filepath.Join(c.State, "c"), c.Log}
	for _, path := range places {
		write(path)
	}
	w := watch(t, c)
	if got := findings(t, w, c); got != "" {
		t.Fatalf("without secrets: %s", got)
	}
	w.Secrets("another", secret)
	got := findings(t, w, c)
	for _, place := range append(places, "/cmdline", "/environ") {
		if !strings.Contains(got, place+" holds secret 1") {
			t.Errorf("%s is not among the findings: %q", place, got)
		}
	}
}

// sleeper starts a process with the word in its arguments and environment.
func sleeper(t *testing.T, word string) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", "echo; read x; : "+word)
	cmd.Env = []string{"WORD=" + word}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	// Until it has been executed it looks like this process.
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestModes(t *testing.T) {
	c := nodeIn(t.TempDir())
	c.Socket = filepath.Join(filepath.Dir(c.Root), "sock")
	for dir, mode := range map[string]os.FileMode{c.Root: 0o700, c.State: 0o711} {
		if err := os.Mkdir(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	chmod(t, c.Socket, 0o660)
	if got := modeFacts(t, c); len(got) != 0 {
		t.Fatalf("before: %q", got)
	}
	chmod(t, c.Socket, 0o666)
	chmod(t, c.Root, 0o701)
	for name, mode := range map[string]os.FileMode{"world": 0o602, "suid": 0o755 | os.ModeSetuid, "fine": 0o644} {
		path := filepath.Join(c.State, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		chmod(t, path, mode)
	}
	if got := modeFacts(t, c); len(got) != 4 {
		t.Errorf("findings: %q", got)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func modeFacts(t *testing.T, c invariant.Config) []invariant.Fact {
	t.Helper()
	facts, err := invariant.Collect(c)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(facts, func(f invariant.Fact) bool { return f.Kind != invariant.Mode })
}

func TestAddressInside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	c := nodeIn(t.TempDir())
	pin := filepath.Join(c.State, pod)
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The namespace is pinned from a process of its own.
	script := "ip link add e2e0 type veth peer name e2e1 && ip address add 10.254.252.2/24 dev e2e0 && ip link set lo up && echo && read x"
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Skip("no veth links or no ip: ", err)
	}
	ns := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "ns/net")
	if err := unix.Mount(ns, pin, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pin, unix.MNT_DETACH) })
	before, _ := os.Readlink("/proc/self/ns/net")
	facts, err := invariant.Collect(c)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before {
		t.Errorf("the main thread moved from %s to %s", before, after)
	}
	inside := slices.DeleteFunc(facts, func(f invariant.Fact) bool { return f.Kind != invariant.Address })
	if len(inside) != 1 || !strings.HasPrefix(inside[0].What, "10.254.252.2 in ") {
		t.Fatalf("addresses inside: %q", inside)
	}
	says := invariant.View{Sandboxes: []invariant.Sandbox{{ID: pod, Ready: true, IPs: []string{"10.254.252.3"}}}}
	if got := strings.Join(invariant.Check(facts, says), "\n"); !strings.Contains(got, `has ["10.254.252.2"] inside`) {
		t.Errorf("findings: %s", got)
	}
}
