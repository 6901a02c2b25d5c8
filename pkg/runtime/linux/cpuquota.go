package linux

import "path/filepath"

// LiftCPUQuota takes the CPU quota away from a cgroup. done is false where that
// is the OCI runtime's to do. With cgroup v1 some (crun 1.8) print the -1 that
// means no quota as an unsigned number, which the kernel refuses.
func (c *Cgroups) LiftCPUQuota(cgroup string) (done bool, err error) {
	if c.unified || cgroup == "" || !c.HasController("cpu") {
		return false, nil
	}
	return true, writeControl(filepath.Join(c.dir("cpu", cgroup), "cpu.cfs_quota_us"), "-1")
}
