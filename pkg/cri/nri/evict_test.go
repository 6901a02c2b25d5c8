package nri

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// stubbornNode has containers that do not end.
type stubbornNode struct {
	fakeNode
	evicting chan struct{}
}

func (n *stubbornNode) Evict(ctx context.Context, _, _ string) error {
	close(n.evicting)
	<-ctx.Done()
	return ctx.Err()
}

// Close does not wait for the end of a container that will not end.
func TestCloseGivesUpEvictions(t *testing.T) {
	n := &stubbornNode{evicting: make(chan struct{})}
	m := newManager(t, n, Known{})
	m.evict(t.Context(), &api.ContainerEviction{ContainerId: "c"})
	<-n.evicting
	closed := make(chan struct{})
	go func() { defer close(closed); m.Close() }()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Error("Close waits for an eviction")
	}
}
