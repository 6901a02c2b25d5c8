package monitor

import (
	"context"
	"errors"
	"testing"
)

func TestSlots(t *testing.T) {
	s := make(slots, 2)
	first, err := s.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	go func() {
		_, err := s.take(ctx)
		refused <- err
	}()
	cancel()
	if err := <-refused; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := s.take(t.Context())
		got <- err
	}()
	first()
	first() // counts once
	if err := <-got; err != nil {
		t.Error(err)
	}
	if len(s) != 2 {
		t.Errorf("%d slots are taken", len(s))
	}
}
