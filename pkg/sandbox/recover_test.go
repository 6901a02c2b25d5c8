package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func TestReadySandboxSurvives(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	p := params("x")
	p.Request, p.Sysctls = []byte{0xff, 0}, map[string]string{"kernel.msgmax": "4096"}
	before := ready(t, m, "x", p).Status()
	inode := namespaceOf(t, before.Namespaces.Net)
	if err := os.Remove(before.Files.Hosts); err != nil { // by somebody tidy
		t.Fatal(err)
	}

	m = n.start(t)
	s, err := m.Get("x")
	if err != nil {
		t.Fatal(err)
	}
	// netip.Addr hides its fields.
	if diff := cmp.Diff(before, s.Status(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if got := namespaceOf(t, s.Status().Namespaces.Net); got != inode {
		t.Errorf("network namespace changed from %s to %s", inode, got)
	}
	if b, _ := os.ReadFile(before.Files.Hosts); !strings.Contains(string(b), "10.1.2.3\tx\n") {
		t.Errorf("hosts is %q", b)
	}
	if len(n.net.detaches) > 0 || !slices.Equal(n.net.valid[len(n.net.valid)-1], []string{"x"}) {
		t.Errorf("detached %q, valid %q", n.net.detaches, n.net.valid)
	}
	if _, err := m.Create(t.Context(), "y", p); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("the key was forgotten: %v", err)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

func TestReboot(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprint("state directory kept ", kept), func(t *testing.T) {
			n := newNode(t)
			m := n.start(t)
			ready(t, m, "x", params("x"))
			ready(t, m, "stopped", params("stopped"))
			if err := m.Stop(t.Context(), "stopped"); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Create(t.Context(), "half", params("half")); err != nil {
				t.Fatal(err)
			}
			reboot(t, n)
			if !kept {
				if err := os.RemoveAll(n.State); err != nil {
					t.Fatal(err)
				}
			}
			n.net.detaches = nil
			m = n.start(t)
			if !slices.Contains(n.net.detaches, "x ") {
				t.Errorf("networks released: %q", n.net.detaches)
			}
			s, err := m.Get("x")
			if err != nil {
				t.Fatal(err)
			}
			if st := s.Status(); st.State != NotReady || st.Reason != ReasonReboot || st.IPs != nil || st.Params.Name != "x" {
				t.Errorf("status is %+v", st)
			}
			if _, err := m.Get("half"); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("a sandbox that was never ready: %v", err)
			}
			if entries, err := os.ReadDir(m.stateOf("x")); err != nil || len(entries) > 0 {
				t.Errorf("state directory has %v, %v", entries, err)
			}
			if len(n.net.attached) > 0 {
				t.Errorf("networks left: %v", n.net.attached)
			}
			// Another restart in the same boot changes nothing.
			m = n.start(t)
			if st := m.List()[0].Status(); st.State != NotReady || len(m.List()) != 2 {
				t.Errorf("after one more restart: %+v", st)
			}
			if err := m.Stop(t.Context(), "x"); err != nil {
				t.Error(err)
			}
			remove(t, m, "x", "stopped")
			n.clean(t, m)
		})
	}
}

// reboot takes the mounts away and changes the boot id.
func reboot(t *testing.T, n *node) {
	t.Helper()
	if err := linux.UnmountAll(n.State); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(path, []byte("00000000-0000-0000-0000-000000000001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CRI_NODE_BOOT_ID_PATH", path)
}

func TestNamespacesGone(t *testing.T) {
	for _, name := range []string{"netns", "ipcns", "utsns", ""} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			m := n.start(t)
			ready(t, m, "x", params("x"))
			if err := linux.Unmount(filepath.Join(m.stateOf("x"), name)); err != nil {
				t.Fatal(err)
			}
			m = n.start(t)
			if st := m.List()[0].Status(); st.State != NotReady || st.Reason != ReasonNamespacesGone || n.net.has("x") {
				t.Errorf("status is %+v", st)
			}
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

// Whatever became of a record, the sandbox can be seen and removed, keeps its
// network until then, and other sandboxes are as they were.
func TestBrokenRecords(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	ready(t, m, "good", params("good"))
	ready(t, m, "bad", params("bad"))
	path := m.recordPath("bad")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string][]byte{
		"empty": {}, "zeros": make([]byte, 64), "other json": []byte(`[]`), "null": []byte("null"),
		"newer version": []byte(strings.Replace(string(whole), `"version":1`, `"version":2`, 1)),
	}
	for i := 1; i < len(whole); i += 37 {
		docs[fmt.Sprint("cut at ", i)] = whole[:i]
		flipped := slices.Clone(whole)
		flipped[i] ^= 0x55
		docs[fmt.Sprint("flipped at ", i)] = flipped
	}
	for name, doc := range docs {
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		m = n.start(t)
		s, err := m.Get("bad")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if st := s.Status(); (st.State == Ready) == (st.Broken != "") || (st.Broken != "" && st.Reason != ReasonBrokenRecord) {
			// A flipped byte of the boot id is no fault of the record, and is
			// a reboot as far as anybody can know; it stops the sandbox.
			if st.Reason != ReasonReboot {
				t.Errorf("%s: status is %+v", name, st)
			}
		}
		if g, err := m.Get("good"); err != nil || g.Status().State != Ready {
			t.Errorf("%s: the good one: %v", name, err)
		}
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m = n.start(t)
	for range 2 {
		if err := m.Stop(t.Context(), "bad"); err != nil {
			t.Error(err)
		}
	}
	if n.net.has("bad") || !n.net.has("good") {
		t.Errorf("attached: %v", n.net.attached)
	}
	remove(t, m, "bad", "good")
	n.clean(t, m)
}

// A broken sandbox may have containers that use its addresses.
func TestBrokenSandboxKeepsItsNetwork(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	ready(t, m, "bad", params("bad"))
	if err := os.WriteFile(m.recordPath("bad"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m = n.start(t)
	if !n.net.has("bad") {
		t.Error("network was released")
	}
	remove(t, m, "bad")
	n.clean(t, m)
}

func TestStrangersInTheDirectories(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	ready(t, m, "x", params("x"))
	ready(t, m, "lost", params("lost"))
	// The record of one is gone altogether, a save was interrupted, and a
	// directory came to be without a record.
	err := errors.Join(
		os.RemoveAll(m.recordDir("lost")),
		os.WriteFile(filepath.Join(m.recordDir("x"), ".record.json.tmp-123"), []byte("half"), 0o600),
		os.Mkdir(m.recordDir("empty"), 0o700),
		os.Mkdir(filepath.Join(m.rootDir(), "lost+found"), 0o700),
		os.Mkdir(filepath.Join(m.stateDir(), "lost+found"), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	m = n.start(t)
	if len(m.List()) != 1 || n.net.has("lost") || exists(t, m.stateOf("lost")) || exists(t, m.recordDir("empty")) ||
		exists(t, filepath.Join(m.recordDir("x"), ".record.json.tmp-123")) {
		t.Errorf("strangers are left; listed: %v, attached: %v", m.List(), n.net.attached)
	}
	for _, dir := range []string{m.rootDir(), m.stateDir()} {
		if err := os.Remove(filepath.Join(dir, "lost+found")); err != nil {
			t.Errorf("somebody else's directory: %v", err)
		}
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// One sandbox whose network hangs keeps neither the others nor the daemon.
func TestRecoverWithAHangingNetwork(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	for i := range 6 {
		ready(t, m, fmt.Sprint("x", i), params(fmt.Sprint(i)))
	}
	reboot(t, n)
	n.DetachTimeout, n.TeardownTimeout = time.Minute, 50*time.Millisecond
	n.net.setDetach(func(ctx context.Context, id, _ string) error {
		if id < "x3" {
			return hang(ctx)
		}
		return nil
	})
	m = n.start(t)
	if len(m.List()) != 6 {
		t.Errorf("listed: %v", m.List())
	}
	n.net.setDetach(nil)
	for i := range 6 {
		remove(t, m, fmt.Sprint("x", i))
	}
	n.clean(t, m)
}

func TestBeforeRecover(t *testing.T) {
	n := newNode(t)
	m := NewManager(n.Config)
	if _, err := m.Create(t.Context(), "x", params("x")); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Create: %v", err)
	}
	if err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Recover(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Recover again: %v", err)
	}
	n.clean(t, m)
}

// Where the state directory is on a shared mount, pins must not spread.
func TestPinsDoNotPropagate(t *testing.T) {
	n := newNode(t)
	if err := os.Mkdir(n.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", n.State, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := linux.Unmount(n.State); err != nil {
			t.Error(err)
		}
	}()
	if err := unix.Mount("", n.State, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	m := n.start(t)
	peer := otherMountNamespace(t)
	inPeer := func() string {
		peer.look <- struct{}{}
		return strings.Join(slices.DeleteFunc(strings.Split(<-peer.mountinfo, "\n"), func(line string) bool {
			return !strings.Contains(line, m.stateDir())
		}), "\n")
	}
	s := ready(t, m, "x", params("x"))
	if ok, err := pinned(s.Status().Namespaces.Net); !ok || err != nil {
		t.Errorf("no pin: %v", err)
	}
	// The tmpfs shows that there is propagation at all.
	if got := inPeer(); !strings.Contains(got, "/sandboxes/x ") || strings.Contains(got, "ns ") {
		t.Errorf("the other mount namespace has\n%s", got)
	}
	remove(t, m, "x")
	if got := inPeer(); got != "" {
		t.Errorf("after removal the other mount namespace has\n%s", got)
	}
	close(peer.look)
	<-peer.mountinfo
	n.clean(t, m)
}

type peerNamespace struct {
	look      chan struct{}
	mountinfo chan string // an answer to each look; closed at the end
}

// otherMountNamespace is one that mounts propagate to, as a service of systemd
// with PrivateTmp has it.
func otherMountNamespace(t *testing.T) peerNamespace {
	t.Helper()
	p := peerNamespace{make(chan struct{}), make(chan string)}
	up := make(chan struct{})
	go func() {
		defer close(p.mountinfo)
		err := onOwnThread(func() error {
			err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Unshare(unix.CLONE_NEWNS))
			close(up)
			for range p.look {
				b, readErr := os.ReadFile("/proc/thread-self/mountinfo")
				err = errors.Join(err, readErr)
				p.mountinfo <- string(b)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}()
	<-up
	return p
}
