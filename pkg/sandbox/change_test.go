package sandbox

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

func TestChangesOfALife(t *testing.T) {
	n := newNode(t)
	var told []ChangeKind
	n.OnChange = func(c Change) { told = append(told, c.Kind) }
	m := n.start(t)
	s, err := m.Create(t.Context(), "a1", params("a"))
	if err != nil {
		t.Fatal(err)
	}
	if len(told) > 0 {
		t.Errorf("told %v of a sandbox that is being made", told)
	}
	for range 2 {
		if err := s.MarkReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := m.Stop(t.Context(), s.ID()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := m.Remove(t.Context(), s.ID()); err != nil {
			t.Fatal(err)
		}
	}
	if want := []ChangeKind{ChangeReady, ChangeNotReady, ChangeRemoved}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestNoChangeOfAFailedCreate(t *testing.T) {
	n := newNode(t)
	n.OnChange = func(c Change) { t.Errorf("told %v", c.Kind) }
	n.net.onAttach = func(context.Context, network.Attachment) error { return errors.New("no") }
	if _, err := n.start(t).Create(t.Context(), "a1", params("a")); err == nil {
		t.Fatal("created")
	}
}

// A sandbox that a reboot ended while no daemon ran is told of once.
func TestChangeFoundByRecovery(t *testing.T) {
	n := newNode(t)
	ready(t, n.start(t), "a1", params("a"))
	reboot(t, n)
	var told []ChangeKind
	n.OnChange = func(c Change) {
		told = append(told, c.Kind)
		if c.Status.Reason != ReasonReboot {
			t.Errorf("reason is %q", c.Status.Reason)
		}
	}
	n.start(t)
	if want := []ChangeKind{ChangeNotReady}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	told = nil
	m := n.start(t)
	if len(told) > 0 {
		t.Errorf("the next daemon told %v", told)
	}
	n.OnChange = nil
	remove(t, m, "a1")
}
