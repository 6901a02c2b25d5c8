package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// realPlugins is where the tests find bridge, host-local, portmap and loopback
// of github.com/containernetworking/plugins.
func realPlugins() string {
	if dir := os.Getenv("CNI_PLUGIN_DIR"); dir != "" {
		return dir
	}
	return "/opt/cni/bin"
}

// TestMain runs the tests in network and mount namespaces of their own, which
// play the host: the machine's network is never touched.
func TestMain(m *testing.M) {
	const inside = "CRI_NODE_TEST_NETNS"
	if os.Getenv(inside) == "" {
		if os.Getuid() != 0 {
			fmt.Fprintln(os.Stderr, "the tests of pkg/sandbox/network need root")
			if os.Getenv("REQUIRE_ROOT") != "" {
				os.Exit(1)
			}
			os.Exit(0)
		}
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			os.Exit(exit.ExitCode())
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := setUpHost(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// setUpHost does what a booted host and a started daemon have done.
func setUpHost() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// newNetNS makes a namespace pinned like a pod's.
func newNetNS(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errs <- err
			return
		}
		errs <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	if err := <-errs; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unpin(tb, path) })
	if err := LoopbackUp(path); err != nil {
		tb.Fatal(err)
	}
	return path
}

func unpin(tb testing.TB, path string) {
	tb.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		tb.Error(err)
	}
}

// inside runs f in the namespace at path.
func inside(tb testing.TB, path string, f func() error) {
	tb.Helper()
	if err := ns.WithNetNSPath(path, func(ns.NetNS) error { return f() }); err != nil {
		tb.Fatal(err)
	}
}

// fixture is a Network with directories of its own.
type fixture struct {
	*Network
	cfg     Config
	dataDir string
}

var fixtures int

func newFixture(tb testing.TB, change func(*Config)) *fixture {
	tb.Helper()
	fixtures++
	dir := tb.TempDir()
	f := &fixture{dataDir: filepath.Join(dir, "networks")}
	f.cfg = Config{
		ConfDir:    filepath.Join(dir, "net.d"),
		PluginDirs: []string{realPlugins()},
		CacheDir:   filepath.Join(dir, "cache"),
		InProcess:  true,
		DefaultNetwork: DefaultNetwork{
			Bridge: fmt.Sprintf("br%d", fixtures),
			Subnets: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.99.%d.0/24", fixtures)),
				netip.MustParsePrefix(fmt.Sprintf("fd99:%x::/64", fixtures)),
			},
			DataDir: f.dataDir,
		},
	}
	if change != nil {
		change(&f.cfg)
	}
	f.reopen(tb)
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
		if link, err := netlink.LinkByName(f.cfg.DefaultNetwork.Bridge); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				tb.Error(err)
			}
		}
	})
	return f
}

// reopen is a restart of the daemon.
func (f *fixture) reopen(tb testing.TB) {
	tb.Helper()
	if f.Network != nil {
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	n, err := New(f.cfg)
	if err == nil {
		err = n.Start(tb.Context())
	}
	if err != nil {
		tb.Fatal(err)
	}
	f.Network = n
}

// writeConf puts a file into the configuration directory and has it read.
func (f *fixture) writeConf(tb testing.TB, name, doc string) {
	tb.Helper()
	if err := os.MkdirAll(f.cfg.ConfDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.cfg.ConfDir, name), []byte(doc), 0o644); err != nil {
		tb.Fatal(err)
	}
	f.reload()
}

// defaultConfDoc is the embedded network as a file, under another name.
func (f *fixture) defaultConfDoc(tb testing.TB, name string, change func(plugin map[string]any)) string {
	tb.Helper()
	list, err := f.cfg.DefaultNetwork.confList(true)
	if err != nil {
		tb.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(list.Bytes, &doc); err != nil {
		tb.Fatal(err)
	}
	doc["name"] = name
	if change != nil {
		for _, p := range doc["plugins"].([]any) {
			change(p.(map[string]any))
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		tb.Fatal(err)
	}
	return string(out)
}

// writePlugin makes a shell script a plugin.
func writePlugin(tb testing.TB, dir, name, script string) {
	tb.Helper()
	// Written by a child: a descriptor of ours open for writing could be
	// inherited by a concurrent fork and make the execution fail (ETXTBSY).
	cmd := exec.Command("sh", "-c", `cat >"$1" && chmod 755 "$1"`, "sh", filepath.Join(dir, name))
	cmd.Stdin = strings.NewReader("#!/bin/sh\n" + script)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
}

// wantClean fails where anything of id is left.
func (f *fixture) wantClean(tb testing.TB, id string) {
	tb.Helper()
	known, err := f.Known()
	if err != nil {
		tb.Fatal(err)
	}
	for _, k := range known {
		if k == id {
			tb.Errorf("%s is still known", id)
		}
	}
	for _, dir := range []string{f.dataDir, f.cfg.CacheDir} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil //nolint:nilerr // what is gone holds nothing
			}
			doc, err := os.ReadFile(path)
			if err == nil && (strings.Contains(path, id) || strings.Contains(string(doc), id)) {
				tb.Errorf("%s is left in %s", id, path)
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if rules := command(tb, "nft", "list", "ruleset"); strings.Contains(rules, id) {
		tb.Errorf("%s is left in nftables:\n%s", id, rules)
	}
}

// ports counts the ports of a bridge.
func ports(tb testing.TB, bridge string) int {
	tb.Helper()
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return 0
	}
	links, err := netlink.LinkList()
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if l.Attrs().MasterIndex == br.Attrs().Index {
			n++
		}
	}
	return n
}

func command(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// listen serves one TCP connection after another in the namespace at path
// ("" is the host's) and answers each with the address it sees.
func listen(tb testing.TB, path, addr string) {
	tb.Helper()
	var l net.Listener
	open := func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}
	if path == "" {
		if err := open(); err != nil {
			tb.Fatal(err)
		}
	} else {
		inside(tb, path, open)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = c.Write([]byte(host))
			_ = c.Close()
		}
	}()
	tb.Cleanup(func() { _ = l.Close(); <-done })
}

// dial connects from the namespace at path ("" is the host's) and returns what
// the server answers: whom it sees.
func dial(tb testing.TB, path, host string, port int) (string, error) {
	tb.Helper()
	var answer string
	try := func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	}
	if path == "" {
		return answer, try()
	}
	err := ns.WithNetNSPath(path, func(ns.NetNS) error { return try() })
	return answer, err
}

// eventually waits for what inotify or another process brings about.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			tb.Fatalf("%s did not happen", what)
		case <-tick.C:
		}
	}
}
