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

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

var errInjected = errors.New("injected")

func hang(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }

func TestFailedCreateLeavesNothing(t *testing.T) {
	for _, test := range []struct {
		name  string
		stage Stage
		want  error
		setup func(*testing.T, *node, *Manager, *Params) context.Context
	}{
		{"attach fails", StageNetwork, errInjected, func(t *testing.T, n *node, _ *Manager, _ *Params) context.Context {
			n.net.onAttach = func(context.Context, network.Attachment) error { return errInjected }
			return t.Context()
		}},
		{"attach hangs", StageNetwork, context.DeadlineExceeded, func(t *testing.T, n *node, _ *Manager, _ *Params) context.Context {
			// The deadline comes when attach hangs, however slow the machine.
			ctx, cancel := context.WithCancelCause(t.Context())
			n.net.onAttach = func(ctx context.Context, _ network.Attachment) error {
				cancel(context.DeadlineExceeded)
				return hang(ctx)
			}
			return ctx
		}},
		{"caller goes away in attach", StageNetwork, context.Canceled, func(t *testing.T, n *node, _ *Manager, _ *Params) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			n.net.onAttach = func(ctx context.Context, _ network.Attachment) error { cancel(); return hang(ctx) }
			return ctx
		}},
		{"sysctl is refused", StageNamespaces, errdefs.ErrInvalidArgument, func(t *testing.T, _ *node, _ *Manager, p *Params) context.Context {
			p.Sysctls = map[string]string{"net.ipv4.ip_forward": "maybe"}
			return t.Context()
		}},
		{"state directory is in the way", StageNamespaces, os.ErrExist, func(t *testing.T, _ *node, m *Manager, _ *Params) context.Context {
			if err := os.MkdirAll(m.stateOf("x")+"/shm/deep/er", 0o700); err != nil {
				t.Fatal(err)
			}
			return t.Context()
		}},
		{"host's resolv.conf is a directory", StageFiles, nil, func(t *testing.T, _ *node, m *Manager, _ *Params) context.Context {
			m.config.HostResolvConf = t.TempDir()
			return t.Context()
		}},
		{"host's hosts is a directory", StageNetwork, nil, func(t *testing.T, _ *node, m *Manager, p *Params) context.Context {
			m.config.HostHosts = t.TempDir()
			p.HostNetwork = true
			return t.Context()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			m := n.start(t)
			p := params("x")
			ctx := test.setup(t, n, m, &p)
			_, err := m.Create(ctx, "x", p)
			var stage *StageError
			if !errors.As(err, &stage) || stage.Stage != test.stage || !strings.Contains(err.Error(), "stage "+string(test.stage)) {
				t.Errorf("error does not name stage %s: %v", test.stage, err)
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			n.clean(t, m)
			// The same call again, once the fault is over, is as good as new.
			n.net.onAttach = nil
			m.config.HostResolvConf, m.config.HostHosts = "/etc/resolv.conf", "/etc/hosts"
			p.Sysctls = nil
			ready(t, m, "x", p)
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

func TestCancelledBeforeAnything(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Create(ctx, "x", params("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	n.clean(t, m)
}

// A Create whose undoing fails leaves something that Remove can finish, in this
// process or the next.
func TestFailedTeardownStaysVisible(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			n := newNode(t)
			n.TeardownTimeout, n.DetachTimeout = 50*time.Millisecond, time.Minute
			m := n.start(t)
			n.net.onAttach = func(context.Context, network.Attachment) error { return errInjected }
			n.net.setDetach(func(ctx context.Context, _, _ string) error { return hang(ctx) })
			_, err := m.Create(t.Context(), "x", params("x"))
			if !errors.Is(err, errInjected) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
			n.net.setDetach(nil)
			n.TeardownTimeout = 10 * time.Second
			if restart {
				m = n.start(t)
			}
			all := m.List()
			if len(all) != 1 || all[0].Status().State != NotReady || all[0].Status().Reason != ReasonCreateFailed {
				t.Fatalf("listed are %+v", all)
			}
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

// A plugin that is gone must not keep a pod; what it did stays to be undone.
func TestDetachFailsIsADebt(t *testing.T) {
	n := newNode(t)
	n.DetachTimeout = 50 * time.Millisecond
	m := n.start(t)
	s := ready(t, m, "x", params("x"))
	ready(t, m, "y", params("y"))
	n.net.setDetach(func(_ context.Context, id, _ string) error {
		if id == "y" {
			return fmt.Errorf("plugin hangs: %w", context.DeadlineExceeded)
		}
		return errInjected
	})
	if err := m.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != NotReady || !strings.Contains(st.Debt, "injected") || st.IPs != nil {
		t.Errorf("status is %+v", st)
	}
	if ok, err := pinned(s.Status().Namespaces.Net); ok || err != nil {
		t.Errorf("namespace is still pinned: %v", err)
	}
	remove(t, m, "y")
	if err := m.SettleDebts(t.Context()); !errors.Is(err, errInjected) {
		t.Errorf("SettleDebts: %v", err)
	}
	n.net.setDetach(nil)
	if err := m.SettleDebts(t.Context()); err != nil {
		t.Error(err)
	}
	if s.Status().Debt != "" || n.net.has("x") || n.net.has("y") {
		t.Errorf("still owed: %q", s.Status().Debt)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

// A caller that gives up gets an error, and the next call goes on.
func TestStopIsGivenUp(t *testing.T) {
	n := newNode(t)
	n.DetachTimeout = time.Minute
	m := n.start(t)
	s := ready(t, m, "x", params("x"))
	entered := make(chan struct{}, 2)
	n.net.setDetach(func(ctx context.Context, _, _ string) error { entered <- struct{}{}; return hang(ctx) })
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := m.Stop(ctx, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	<-entered
	// Meanwhile nobody who only looks has to wait, and who wants to work on
	// it waits no longer than he wants to.
	if st := m.List()[0].Status(); st.State != NotReady {
		t.Errorf("state while stopping is %s", st.State)
	}
	short, cancelShort := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancelShort()
	if err := m.Remove(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Remove behind a Stop that hangs: %v", err)
	}
	cancel()
	wait.Wait()
	if ok, err := pinned(s.Status().Namespaces.Net); !ok || err != nil {
		t.Errorf("a Stop that was given up unpinned the namespace: %v", err)
	}
	n.net.setDetach(nil)
	remove(t, m, "x")
	n.clean(t, m)
}

// On a full disk no record can be written; pods must still come down, and a
// crash in the middle must not bring one back.
func TestStopWithoutSpaceForTheRecord(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	ready(t, m, "x", params("x"))
	// Nobody can write a file in a directory that is not there.
	if err := os.Rename(m.recordDir("x"), m.rootDir()+"/.elsewhere"); err != nil {
		t.Fatal(err)
	}
	n.net.setDetach(func(_ context.Context, _, netns string) error {
		if netns != "" {
			t.Errorf("the network went before the pins, which are all that says the pod is not ready")
		}
		return nil
	})
	if err := m.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.rootDir()+"/.elsewhere", m.recordDir("x")); err != nil {
		t.Fatal(err)
	}
	m = n.start(t)
	if st := m.List()[0].Status(); st.State != NotReady {
		t.Errorf("after a restart: %+v", st)
	}
	remove(t, m, "x")
	n.clean(t, m)
}

func TestConcurrentOperations(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	const ids, workers = 4, 24
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			id := fmt.Sprint("c", w%ids)
			for range 5 {
				if w%2 == 0 {
					s, err := m.Create(t.Context(), id, params(id))
					if err == nil {
						err = s.MarkReady(t.Context())
					}
					if err != nil && !errors.Is(err, errdefs.ErrAlreadyExists) && !errors.Is(err, errdefs.ErrFailedPrecondition) {
						t.Error(err)
					}
				}
				for _, s := range m.List() {
					if st := s.Status(); st.State == Creating || st.ID == "" {
						t.Errorf("listed: %+v", st)
					}
				}
				if err := m.Stop(t.Context(), id); err != nil {
					t.Error(err)
				}
				if s, ok := m.Lookup(params(id).Key); ok {
					_ = s.Status()
				}
				if err := m.Remove(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	remove(t, m, "c0", "c1", "c2", "c3")
	n.clean(t, m)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Creation times tell kubelet which sandbox is the current one.
func TestCreationTimesAreUnique(t *testing.T) {
	n := newNode(t)
	m := n.start(t)
	m.newest = time.Now().Add(time.Hour) // the clock was set back
	seen := map[time.Time]bool{}
	for i := range 3 {
		p := params(fmt.Sprint(i))
		p.HostNetwork, p.HostIPC = true, true
		at := ready(t, m, fmt.Sprint("t", i), p).Status().CreatedAt
		if seen[at] || at.Before(time.Now()) {
			t.Errorf("created at %s", at)
		}
		seen[at] = true
	}
	for i, s := range m.List() {
		if s.ID() != fmt.Sprint("t", i) {
			t.Errorf("%d is %s", i, s.ID())
		}
	}
	remove(t, m, "t0", "t1", "t2")
	n.clean(t, m)
}

func BenchmarkCreateRemove(b *testing.B) {
	n := newNode(b)
	m := n.start(b)
	i := 0
	for b.Loop() {
		i++
		id := fmt.Sprint("b", i)
		ready(b, m, id, params(id))
		remove(b, m, id)
	}
	n.clean(b, m)
}
