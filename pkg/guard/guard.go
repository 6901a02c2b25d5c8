package guard

import (
	"fmt"
	"runtime/debug"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
)

// Call runs f. A panic in it is logged and is an error of the class
// errdefs.ErrInternal that names what was done.
func Call(log klog.Logger, what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error(nil, "Panicked", "in", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("%s panicked: %v: %w", what, p, errdefs.ErrInternal)
		}
	}()
	return f()
}
