package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// A sandbox that was stopped, or that a reboot has ended, comes back with its id
// and new namespaces, as often as one likes.
func TestRevive(t *testing.T) {
	for _, kind := range []string{"own", "host", "mapped"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			var told []ChangeKind
			n.OnChange = func(c Change) { told = append(told, c.Kind) }
			m := n.start(t)
			p := params("x")
			p.HostNetwork = kind == "host"
			p.ExtraHosts = []string{"10.9.8.7 extra"}
			if kind == "mapped" {
				p.UserNS = mappedIDs()
			}
			s := ready(t, m, "x", p)
			if err := m.Revive(t.Context(), "x"); err != nil {
				t.Errorf("of a ready one: %v", err)
			}
			created := s.Status().CreatedAt
			for range 2 {
				// Held, or the kernel gives the next one the same number.
				old, err := os.Open(s.Status().Namespaces.IPC)
				if err != nil {
					t.Fatal(err)
				}
				before := namespaceOf(t, s.Status().Namespaces.IPC)
				if err := m.Stop(t.Context(), "x"); err != nil {
					t.Fatal(err)
				}
				if err := m.Revive(t.Context(), "x"); err != nil {
					t.Fatal(err)
				}
				st := s.Status()
				if st.State != Ready || st.Reason != "" || st.CreatedAt != created || (len(st.IPs) == 0) != (kind == "host") || st.Params.Name != "x" {
					t.Errorf("status is %+v", st)
				}
				if namespaceOf(t, st.Namespaces.IPC) == before {
					t.Error("the namespace is the old one")
				}
				if err := old.Close(); err != nil {
					t.Error(err)
				}
				hosts, err := os.ReadFile(st.Files.Hosts)
				if err != nil || !strings.Contains(string(hosts), "10.9.8.7\textra\n") {
					t.Errorf("hosts are %q, %v", hosts, err)
				}
			}
			// The next daemon finds it.
			m = n.start(t)
			s, err := m.Get("x")
			if err != nil || s.Status().State != Ready {
				t.Fatal(err, s.Status())
			}
			reboot(t, n)
			if err := os.RemoveAll(n.State); err != nil {
				t.Fatal(err)
			}
			m = n.start(t)
			if s, err = m.Get("x"); err != nil || s.Status().State != NotReady {
				t.Fatal(err, s.Status())
			}
			if err := m.Revive(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			if whole, err := intact(m.stateOf("x"), p); err != nil || !whole || s.Status().State != Ready {
				t.Error(whole, err, s.Status().State)
			}
			want := []ChangeKind{ChangeReady, ChangeNotReady, ChangeReady, ChangeNotReady, ChangeReady, ChangeNotReady, ChangeReady}
			if fmt.Sprint(told) != fmt.Sprint(want) {
				t.Errorf("told %v, want %v", told, want)
			}
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

// A revival that fails leaves a stopped sandbox with nothing, and the next one
// succeeds.
func TestReviveFails(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	s := ready(t, m, "x", params("x"))
	if err := m.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	n.net.onAttach = func(context.Context, network.Attachment) error { return errInjected }
	for range 2 {
		err := m.Revive(t.Context(), "x")
		if !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		st := s.Status()
		if st.State != NotReady || st.IPs != nil || n.net.has("x") {
			t.Errorf("status is %+v", st)
		}
		if points, err := linux.MountPoints(n.State); err != nil || len(points) > 0 {
			t.Errorf("mounts left: %q %v", points, err)
		}
	}
	// An undoing that fails is made up for.
	n.net.setDetach(func(context.Context, string, string) error { return errInjected })
	if err := m.Revive(t.Context(), "x"); !errors.Is(err, errInjected) || s.Status().Debt == "" {
		t.Fatal(err, s.Status())
	}
	if err := m.Revive(t.Context(), "x"); !errors.Is(err, errInjected) {
		t.Fatalf("revived with a debt: %v", err)
	}
	n.net.onAttach = nil
	n.net.setDetach(nil)
	if err := m.Revive(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Ready || st.Debt != "" || !n.net.has("x") {
		t.Errorf("status is %+v", st)
	}
	if err := m.SettleDebts(t.Context()); err != nil || !n.net.has("x") {
		t.Errorf("an old debt took the network: %v", err)
	}
	if err := m.Revive(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// Of all sandboxes of a pod one lives.
func TestReviveKeepsTheKey(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	ready(t, m, "old", params("x"))
	if err := m.Stop(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	ready(t, m, "new", params("x"))
	if err := m.Revive(t.Context(), "old"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("beside a new one: %v", err)
	}
	remove(t, m, "new")
	var during error
	n.net.onAttach = func(ctx context.Context, a network.Attachment) error {
		if a.ID == "old" {
			_, during = m.Create(ctx, "third", params("x"))
		}
		return nil
	}
	if err := m.Revive(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if !errdefs.IsAlreadyExists(during) {
		t.Errorf("made meanwhile: %v", during)
	}
	remove(t, m, "old")
	n.clean(t, m)
}

// A crash after each stage of a revival is undone.
func TestCrashInRevive(t *testing.T) {
	for i, stage := range []string{"nothing", "namespaces", "files", "network"} {
		t.Run(stage, func(t *testing.T) {
			n := newNode(t)
			m := n.start(t)
			s := ready(t, m, "x", params("x"))
			if err := m.Stop(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			if err := discard(m.stateOf("x")); err != nil {
				t.Fatal(err)
			}
			for _, run := range []func() error{
				func() error { return makeNamespaces(m.stateOf("x"), s.Status().Params, "x", nil, m.config.Holder) },
				func() error { return s.makeFiles(m.stateOf("x"), "x") },
				func() error { return s.attach(t.Context(), m.stateOf("x"), "x") },
			}[:i] {
				if err := run(); err != nil {
					t.Fatal(err)
				}
			}
			m = n.start(t)
			s, err := m.Get("x")
			if err != nil || s.Status().State != NotReady || n.net.has("x") {
				t.Fatal(err, s.Status())
			}
			if points, err := linux.MountPoints(n.State); err != nil || len(points) > 0 {
				t.Errorf("mounts left: %q %v", points, err)
			}
			if err := m.Revive(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

// The hosts file stays the same file, and whoever reads it sees whole lines.
func TestSetHosts(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	p := params("x")
	p.ExtraHosts = []string{"10.9.8.7  one two", HostGateway + " gate"}
	s := ready(t, m, "x", p)
	path := s.Status().Files.Hosts
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	first, own := inode(), ""
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if own = read(); !strings.HasSuffix(own, "10.9.8.7\tone two\n") || strings.Contains(own, "gate") {
		t.Fatalf("%q", own)
	}
	s.update(func(st *Status) { st.NetworkResult = []byte(`{"ips":[{"gateway":"10.1.2.1"},{}]}`) })
	if err := s.SetHosts(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if own = read(); !strings.HasSuffix(own, "10.1.2.1\tgate\n") {
		t.Fatalf("%q", own)
	}
	long := []string{strings.Repeat("10.1.1.1 a.very.long.name.of.some.member ", 1), "10.1.1.2 b", "fd00::7 c"}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if b, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(b), own) {
				t.Errorf("somebody reads %q, %v", b, err)
				return
			}
		}
	})
	for i := range 200 {
		lines := long[:i%4]
		if err := s.SetHosts(t.Context(), lines); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reader.Wait()
	if err := s.SetHosts(t.Context(), long[1:]); err != nil {
		t.Fatal(err)
	}
	want := own + "10.1.1.2\tb\nfd00::7\tc\n"
	if got := read(); got != want || inode() != first {
		t.Errorf("hosts are %q, want %q; inode %d, was %d", got, want, inode(), first)
	}
	for _, bad := range []string{"x y", "1.2.3.4", "1.2.3.4 a\n6.6.6.6 b", "1.2.3.4 ../x"} {
		if err := s.SetHosts(t.Context(), []string{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// They outlive the daemon, and the file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m = n.start(t)
	if got := read(); !strings.HasSuffix(got, "fd00::7\tc\n") {
		t.Errorf("after a restart: %q", got)
	}
	if err := m.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	s, err := m.Get("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetHosts(t.Context(), []string{"10.1.1.9 late"}); err != nil {
		t.Fatal(err)
	}
	if err := m.Revive(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.HasSuffix(got, "10.1.1.9\tlate\n") {
		t.Errorf("revived: %q", got)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// A pod without a network has lo and nothing else.
func TestNoNetwork(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	p := params("x")
	p.NoNetwork = true
	s := ready(t, m, "x", p)
	if n.net.has("x") || len(s.Status().IPs) > 0 {
		t.Error("it has a network")
	}
	inside(t, s.Status().Namespaces, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if got := strings.Count(string(b), ":"); got != 1 || !strings.Contains(string(b), "lo:") {
			t.Errorf("interfaces:\n%s", b)
		}
		return err
	})
	if err := m.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := m.Revive(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// A stop that waits for a revival stops what it makes.
func TestStopDuringRevive(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	s := ready(t, m, "x", params("x"))
	if err := m.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	n.net.onAttach = func(ctx context.Context, _ network.Attachment) error {
		go func() { stopped <- m.Stop(context.WithoutCancel(ctx), "x") }()
		select {
		case <-stopped:
			t.Error("it did not wait")
		case <-time.After(50 * time.Millisecond):
		}
		return nil
	}
	if err := m.Revive(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil || s.Status().State != NotReady || n.net.has("x") {
		t.Error(err, s.Status())
	}
	remove(t, m, "x")
	n.clean(t, m)
}
