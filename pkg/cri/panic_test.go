package cri

import (
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// What panics in a goroutine of a call is the call's error.
func TestEachPanics(t *testing.T) {
	tried := make(chan bool, 2)
	err := each(t.Context(), twoContainers(t), func(*runtime.Container) error {
		tried <- true
		panic("at the disco")
	})
	if !errdefs.IsInternal(err) || len(tried) != 2 {
		t.Errorf("got %v after %d of 2", err, len(tried))
	}
}

// twoContainers returns two containers.
func twoContainers(t *testing.T) []*runtime.Container {
	t.Helper()
	dir := t.TempDir()
	m := runtime.NewManager(runtime.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Handlers: map[string]*oci.Runtime{"h": nil}})
	var list []*runtime.Container
	for _, id := range []string{"a", "b"} {
		c, err := m.Prepare(t.Context(), runtime.Params{ID: id, Handler: "h"})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

// A panic in what listens to a change reaches neither the one who made it nor
// the changes after it.
func TestChangesPanic(t *testing.T) {
	var c Changes
	var told []string
	broken := func(*Server) { panic("at the disco") }
	c.tell(broken)
	c.tell(func(*Server) { told = append(told, "early") })
	s := &Server{}
	c.connect(s)
	c.tell(broken)
	c.tell(func(*Server) { told = append(told, "late") })
	if len(told) != 2 {
		t.Errorf("told %q", told)
	}
	// A server that has nothing cannot deal with anything.
	c.Container(runtime.Change{Kind: runtime.ChangeExited, Status: &runtime.Status{}})
	c.Sandbox(sandbox.Change{Kind: sandbox.ChangeNotReady})
}
