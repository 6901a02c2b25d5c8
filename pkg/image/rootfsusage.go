package image

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/image/diskusage"
)

// newUpper is what a writable layer takes up as it is made: a directory.
var newUpper = diskusage.Usage{Bytes: 4096, Inodes: 1}

// RootfsUsage says what the writable layer of a container takes up, and when
// that was so, without looking at it: see package diskusage. mount is where
// MountRootfs has mounted it. The error is errdefs.ErrUnavailable as long as
// nothing is known, which is shortly after a restart.
func (s *Store) RootfsUsage(containerID, mount string) (diskusage.Usage, time.Time, error) {
	s.mu.Lock()
	e := s.rootfses[containerID]
	s.mu.Unlock()
	if e == nil {
		return diskusage.Usage{}, time.Time{}, fmt.Errorf("rootfs %s: %w", containerID, errdefs.ErrNotFound)
	}
	u, at, ok := s.usages.Get(containerID, mount)
	if !ok {
		return u, at, fmt.Errorf("usage of rootfs %s is not measured yet: %w", containerID, errdefs.ErrUnavailable)
	}
	return u, at, nil
}
