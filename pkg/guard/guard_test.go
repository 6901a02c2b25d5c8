package guard_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

func TestCall(t *testing.T) {
	broken := errors.New("broken")
	if err := guard.Call(klog.Logger{}, "work", func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := guard.Call(klog.Logger{}, "work", func() error { return nil }); err != nil {
		t.Error(err)
	}
	var none map[string]int
	err := guard.Call(klog.Logger{}, "work", func() error { none["a"] = 1; return nil })
	if !errdefs.IsInternal(err) || !strings.HasPrefix(err.Error(), "work panicked: assignment to entry in nil map") {
		t.Errorf("got %v", err)
	}
}
