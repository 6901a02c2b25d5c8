package node

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/cri-node/cri-node/pkg/image"
)

// TestPullProblem: who cannot pull hears the name, the registry, and what to do.
func TestPullProblem(t *testing.T) {
	named, err := reference.ParseNormalizedNamed("busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	other := errors.New("the disk is full")
	for want, err := range map[string]error{
		`registry docker.io cannot be asked for busybox:1: Head "https://x": no such host (image.certs_dirs of the configuration names mirrors)`: fmt.Errorf(
			"%w: pull image docker.io/library/busybox:1: resolve docker.io/library/busybox:1: failed to do request: %s", image.ErrRegistryUnavailable, `Head "https://x": no such host`),
		`registry docker.io has no image busybox:1: look at the name, or see "cri-node login" if it is private (gone: not found)`: fmt.Errorf("gone: %w", errdefs.ErrNotFound),
		"the disk is full": other,
	} {
		if got := pullProblem(err, named); got.Error() != want {
			t.Errorf("%v\nsays %v\nwant %s", err, got, want)
		}
	}
}
