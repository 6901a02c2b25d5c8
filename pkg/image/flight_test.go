package image

import (
	"context"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// What an image makes panic is the error of its pull, and not the daemon's end.
func TestFlightPanics(t *testing.T) {
	var f flights[string, int]
	var wait sync.WaitGroup
	defer wait.Wait()
	if _, err := f.do(t.Context(), t.Context(), &wait, "key", func(context.Context) (int, error) { panic("at the disco") }); !errdefs.IsInternal(err) {
		t.Errorf("got %v", err)
	}
	n, err := f.do(t.Context(), t.Context(), &wait, "key", func(context.Context) (int, error) { return 1, nil })
	if n != 1 || err != nil {
		t.Errorf("afterwards: %d, %v", n, err)
	}
}
