package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashChildEnv) != "" {
		crashChild()
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of this package make namespaces and mounts, which takes root")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// fakeNetwork gives every pod an address and remembers who has one.
type fakeNetwork struct {
	mu       sync.Mutex
	attached map[string]network.Attachment
	detaches []string // "id netns"
	valid    [][]string

	// These, where set, run instead of a success.
	onAttach func(context.Context, network.Attachment) error
	onDetach func(context.Context, string, string) error
}

var fakeIPs = []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}

func (f *fakeNetwork) Attach(ctx context.Context, a network.Attachment) (network.Result, error) {
	f.mu.Lock()
	if f.attached == nil {
		f.attached = map[string]network.Attachment{}
	}
	f.attached[a.ID] = a // like the intent, before the effect
	hook := f.onAttach
	f.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, a); err != nil {
			return network.Result{}, err
		}
	}
	return network.Result{IPs: fakeIPs, Raw: []byte(`{"cniVersion":"1.1.0"}`)}, nil
}

func (f *fakeNetwork) Detach(ctx context.Context, id, netns string) error {
	f.mu.Lock()
	f.detaches = append(f.detaches, id+" "+netns)
	hook := f.onDetach
	f.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, id, netns); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, id)
	return nil
}

func (f *fakeNetwork) GC(_ context.Context, valid []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.valid = append(f.valid, valid)
	for id := range f.attached {
		if !slices.Contains(valid, id) {
			delete(f.attached, id)
		}
	}
	return nil
}

func (f *fakeNetwork) has(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.attached[id]
	return ok
}

func (f *fakeNetwork) setDetach(hook func(context.Context, string, string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onDetach = hook
}

// node is a root and a state directory, and the network between restarts.
type node struct {
	Config
	net *fakeNetwork
}

func newNode(t testing.TB) *node {
	t.Helper()
	dir := t.TempDir()
	// Not t.Context(), which is over when a cleanup runs.
	t.Cleanup(func() {
		if points, err := linux.MountPoints(dir); err != nil || len(points) > 0 {
			t.Errorf("mounts left: %q %v", points, err)
		}
		if err := linux.UnmountAll(dir); err != nil {
			t.Error(err)
		}
	})
	f := &fakeNetwork{}
	return &node{net: f, Config: Config{
		Root:            filepath.Join(dir, "root"),
		State:           filepath.Join(dir, "state"),
		Network:         f,
		Holder:          holder,
		TeardownTimeout: 10 * time.Second,
		DetachTimeout:   5 * time.Second,
	}}
}

// start starts a daemon on the node, as a crash of the one before left it.
func (n *node) start(t testing.TB) *Manager {
	t.Helper()
	m := NewManager(n.Config)
	if err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// clean checks that nothing of any sandbox is left.
func (n *node) clean(t testing.TB, m *Manager) {
	t.Helper()
	for _, dir := range []string{m.rootDir(), m.stateDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("%s is left", filepath.Join(dir, e.Name()))
		}
		if points, err := linux.MountPoints(dir); err != nil || len(points) > 0 {
			t.Errorf("mounts left: %q %v", points, err)
		}
	}
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	if len(n.net.attached) > 0 {
		t.Errorf("networks left: %v", n.net.attached)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.byID)+len(m.byKey)+len(m.owed) > 0 {
		t.Errorf("manager still knows %v %v, owes %v", m.byID, m.byKey, m.owed)
	}
}

// holder waits in a user namespace.
var holder = []string{"/bin/sleep", "3600"}

func mappedIDs() *UserNS {
	return &UserNS{
		UIDs: []IDMap{{HostID: 200000, Length: 65536}},
		GIDs: []IDMap{{HostID: 300000, Length: 65536}},
	}
}

func params(name string) Params {
	return Params{Key: Key{Namespace: "default", Name: name, UID: "uid-" + name}}
}

// ready makes a sandbox that is Ready.
func ready(t testing.TB, m *Manager, id string, p Params) *Sandbox {
	t.Helper()
	s, err := m.Create(t.Context(), id, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MarkReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func remove(t testing.TB, m *Manager, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := m.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// inside runs look on a thread in the pod's namespaces.
func inside(t testing.TB, ns Namespaces, look func() error) {
	t.Helper()
	err := onOwnThread(func() error {
		for _, path := range []string{ns.Net, ns.IPC, ns.UTS} {
			if path == "" {
				continue
			}
			if err := enterNamespace(path); err != nil {
				return err
			}
		}
		return look()
	})
	if err != nil {
		t.Error(err)
	}
}

func enterNamespace(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = unix.Setns(int(f.Fd()), 0)
	return errors.Join(err, f.Close())
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile("/proc/sys/" + path)
	return string(b), err
}

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func namespaceOf(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
