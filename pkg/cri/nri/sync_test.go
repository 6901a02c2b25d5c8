package nri

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// hanging is a plugin that stops in Synchronize until it is let go.
type hanging struct {
	fakePlugin
	reached, release chan struct{}
}

func (p *hanging) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	close(p.reached)
	<-p.release
	return nil, nil
}

// hang connects one.
func hang(t *testing.T, m *Manager) (p *hanging, ended <-chan struct{}) {
	t.Helper()
	p = &hanging{fakePlugin: fakePlugin{lives: map[string][]string{}}, reached: make(chan struct{}), release: make(chan struct{})}
	_, ended = run(t, m, p, "10")
	<-p.reached
	return p, ended
}

// TestHangingSynchronize: a pod waits for a plugin that is being synchronized as
// long as for any request, and then the plugin is let go.
func TestHangingSynchronize(t *testing.T) {
	m := newManager(t, &fakeNode{}, Known{}, func(c *Config) {
		c.RequestTimeout, c.RegistrationTimeout = 300*time.Millisecond, time.Minute
	})
	p, ended := hang(t, m)
	began := time.Now()
	if err := live(t.Context(), m, "pod"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a pod took %v", took)
	}
	close(p.release)
	<-ended
	if m.connected() {
		t.Error("the plugin is connected")
	}
}

// TestSlowSynchronize: while no step waits a plugin may take its time.
func TestSlowSynchronize(t *testing.T) {
	m := newManager(t, &fakeNode{}, Known{}, func(c *Config) { c.RequestTimeout, c.RegistrationTimeout = 50*time.Millisecond, time.Minute })
	p, _ := hang(t, m)
	time.AfterFunc(300*time.Millisecond, func() { close(p.release) })
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !m.connected(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the plugin was let go")
		}
	}
}

// TestSilentPeer: who connects and does not register holds up no step.
func TestSilentPeer(t *testing.T) {
	m := newManager(t, &fakeNode{}, Known{}, func(c *Config) { c.RegistrationTimeout = 20 * time.Second })
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", m.config.Socket)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := live(t.Context(), m, "pod"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a pod took %v", took)
	}
	if err := conn.Close(); err != nil { // ends its registration
		t.Error(err)
	}
}
