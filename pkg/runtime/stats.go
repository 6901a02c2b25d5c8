package runtime

import "github.com/cri-node/cri-node/pkg/runtime/linux"

// Stats reads what the container's processes have used.
func (c *Container) Stats() (linux.CgroupStats, error) {
	return c.m.config.Cgroups.Stats(c.Status().Cgroup)
}
