package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CgroupMetrics is what a cgroup tells beyond CgroupStats: what monitoring
// wants now and then, from files that are not kept open. A value the kernel does
// not offer on this machine, or that is no limit, is nil.
type CgroupMetrics struct {
	CPUUser, CPUSystem time.Duration
	// Periods of the CPU quota, those in which it was used up, and how long the
	// cgroup then had to wait.
	Periods, ThrottledPeriods uint64
	ThrottledTime             time.Duration
	CPUPeriod, CPUQuota       *uint64 // microseconds
	CPUShares                 *uint64

	Cache, MappedFile uint64 // bytes
	KernelMemory      *uint64
	PeakMemory        *uint64
	// LimitHits is how often the memory limit was hit.
	LimitHits   uint64
	Reclaim     *Reclaim // v2 only
	OOMKills    uint64
	Reservation *uint64 // bytes
	// OwnFaults and OwnMajorFaults are page faults of the cgroup without those
	// below it; the same as with them on v2.
	OwnFaults, OwnMajorFaults uint64

	// Tasks counts threads, as the pids controller does.
	Tasks, TasksMax *uint64
	Huge            []HugeUsage
	Devices         []DeviceUsage
}

// Reclaim says how the kernel has taken memory back.
type Reclaim struct {
	// HighHits is how often the cgroup was slowed down at memory.high.
	HighHits uint64
	// Dirty and Writeback are bytes of files that are not on the disk yet.
	Dirty, Writeback uint64
	// Scanned and Stolen are pages; the refaults are of those that came back.
	Scanned, Stolen, RefaultsFile, RefaultsAnon uint64
}

// HugeUsage is the use of huge pages of one size, which is named as the
// controller does: 2MB.
type HugeUsage struct {
	Size  string
	Usage uint64
	Peak  *uint64
}

// DeviceUsage is what was read from and written to one block device.
type DeviceUsage struct {
	Major, Minor                         uint32
	ReadBytes, WriteBytes, Reads, Writes uint64
	HasAsync                             bool
	SyncBytes, AsyncBytes, DiscardBytes  uint64
}

// CgroupOffers says what the cgroups of this machine can tell, always.
type CgroupOffers struct {
	CPU, CPUQuota, Memory, PeakMemory, KernelMemory, Reclaim, Tasks, Devices, Huge, HugePeak, Pressure bool
}

// Offers looks at what controllers there are, and at the files of a cgroup.
func (c *Cgroups) Offers() CgroupOffers {
	o := CgroupOffers{
		CPUQuota: c.HasController("cpu"),
		Memory:   c.HasController("memory"),
		Tasks:    c.HasController("pids"),
		Huge:     c.HasController("hugetlb"),
	}
	if !c.unified {
		o.CPU, o.Devices = c.HasController("cpuacct"), c.HasController("blkio")
		o.PeakMemory = exists(c.dir("memory", "/") + "/memory.max_usage_in_bytes")
		o.KernelMemory = exists(c.dir("memory", "/") + "/memory.kmem.usage_in_bytes")
		o.HugePeak = o.Huge
		return o
	}
	o.CPU, o.Devices = true, c.HasController("io")
	// The root lacks these files; any child of it tells.
	o.PeakMemory = o.Memory && c.anyChildHas("memory.peak")
	o.KernelMemory, o.Reclaim = o.Memory, o.Memory
	if _, err := os.ReadFile("/proc/pressure/cpu"); err == nil { // EOPNOTSUPP with psi=0
		o.Pressure = c.anyChildHas("cpu.pressure")
	}
	return o
}

func (c *Cgroups) anyChildHas(file string) bool {
	found, err := filepath.Glob(filepath.Join(c.root, "*", file))
	return err == nil && len(found) > 0
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Metrics reads what a cgroup tells beyond Stats. The error is os.ErrNotExist
// where there is no such cgroup.
func (c *Cgroups) Metrics(cgroup string) (CgroupMetrics, error) {
	var m CgroupMetrics
	read := c.metricsV1
	if c.unified {
		read = c.metricsV2
	}
	buf := c.buffer()
	defer c.buffers.Put(buf)
	if err := read(cgroup, &m, buf); err != nil {
		return CgroupMetrics{}, fmt.Errorf("read metrics of cgroup %s: %w", cgroup, err)
	}
	return m, nil
}

func (c *Cgroups) metricsV1(cgroup string, m *CgroupMetrics, buf *statBuffer) error {
	if _, ok := c.trees["cpuacct"]; ok {
		dir := c.dir("cpuacct", cgroup)
		user, err := readNumber(dir + "/cpuacct.usage_user")
		if err != nil {
			return err
		}
		m.CPUUser = time.Duration(user)
		if system := readOptional(dir + "/cpuacct.usage_sys"); system != nil {
			m.CPUSystem = time.Duration(*system)
		}
	}
	if _, ok := c.trees["cpu"]; ok {
		dir := c.dir("cpu", cgroup)
		var throttled uint64
		err := readKeyed(dir+"/cpu.stat", buf, map[string]*uint64{
			"nr_periods": &m.Periods, "nr_throttled": &m.ThrottledPeriods, "throttled_time": &throttled,
		})
		if err := ignoreNotExist(err); err != nil { // a kernel without CPU quotas
			return err
		}
		m.ThrottledTime = time.Duration(throttled)
		m.CPUPeriod, m.CPUShares = readOptional(dir+"/cpu.cfs_period_us"), readOptional(dir+"/cpu.shares")
		m.CPUQuota = readOptional(dir + "/cpu.cfs_quota_us") // -1 does not parse: none
	}
	if _, ok := c.trees["memory"]; ok {
		if err := m.memoryV1(c.dir("memory", cgroup), buf); err != nil {
			return err
		}
	}
	if _, ok := c.trees["pids"]; ok {
		dir := c.dir("pids", cgroup)
		m.Tasks, m.TasksMax = readOptional(dir+"/pids.current"), readOptional(dir+"/pids.max")
	}
	if _, ok := c.trees["hugetlb"]; ok {
		m.Huge = readHuge(c.dir("hugetlb", cgroup), ".usage_in_bytes", ".max_usage_in_bytes")
	}
	if _, ok := c.trees["blkio"]; ok {
		m.Devices = readBlkio(c.dir("blkio", cgroup))
	}
	return nil
}

func (m *CgroupMetrics) memoryV1(dir string, buf *statBuffer) error {
	err := readKeyed(dir+"/memory.stat", buf, map[string]*uint64{
		"total_cache": &m.Cache, "total_mapped_file": &m.MappedFile, "pgfault": &m.OwnFaults, "pgmajfault": &m.OwnMajorFaults,
	})
	if err != nil {
		return err
	}
	if err := ignoreNotExist(readKeyed(dir+"/memory.oom_control", buf, map[string]*uint64{"oom_kill": &m.OOMKills})); err != nil {
		return err
	}
	m.KernelMemory = readOptional(dir + "/memory.kmem.usage_in_bytes")
	m.PeakMemory = readOptional(dir + "/memory.max_usage_in_bytes")
	if hits := readOptional(dir + "/memory.failcnt"); hits != nil {
		m.LimitHits = *hits
	}
	if soft := readOptional(dir + "/memory.soft_limit_in_bytes"); soft != nil && *soft < unlimitedV1 {
		m.Reservation = soft
	}
	return nil
}

func (c *Cgroups) metricsV2(cgroup string, m *CgroupMetrics, buf *statBuffer) error {
	dir := c.dir("", cgroup)
	var user, system, throttled uint64
	err := readKeyed(dir+"/cpu.stat", buf, map[string]*uint64{
		"user_usec": &user, "system_usec": &system,
		"nr_periods": &m.Periods, "nr_throttled": &m.ThrottledPeriods, "throttled_usec": &throttled,
	})
	if err != nil {
		return err
	}
	m.CPUUser, m.CPUSystem = time.Duration(user)*time.Microsecond, time.Duration(system)*time.Microsecond
	m.ThrottledTime = time.Duration(throttled) * time.Microsecond
	limits := limitDir(dir)
	m.CPUQuota, m.CPUPeriod = readCPUMax(limits + "/cpu.max")
	if weight := readOptional(limits + "/cpu.weight"); weight != nil {
		// 1 … 10000 from 2 … 262144, the way runtimes have always mapped them.
		m.CPUShares = ptr(2 + (max(*weight, 1)-1)*262142/9999)
	}
	var kernel uint64
	m.Reclaim = &Reclaim{}
	err = readKeyed(dir+"/memory.stat", buf, map[string]*uint64{
		"file": &m.Cache, "file_mapped": &m.MappedFile, "kernel": &kernel, "pgfault": &m.OwnFaults, "pgmajfault": &m.OwnMajorFaults,
		"file_dirty": &m.Reclaim.Dirty, "file_writeback": &m.Reclaim.Writeback, "pgscan": &m.Reclaim.Scanned, "pgsteal": &m.Reclaim.Stolen,
		"workingset_refault_file": &m.Reclaim.RefaultsFile, "workingset_refault_anon": &m.Reclaim.RefaultsAnon,
	})
	if err := ignoreNotExist(err); err != nil {
		return err
	}
	m.KernelMemory = &kernel
	if err := ignoreNotExist(readKeyed(dir+"/memory.events", buf, map[string]*uint64{"high": &m.Reclaim.HighHits, "max": &m.LimitHits, "oom_kill": &m.OOMKills})); err != nil {
		return err
	}
	m.PeakMemory = readOptional(dir + "/memory.peak")
	if low := readOptional(limits + "/memory.low"); low != nil && *low > 0 {
		m.Reservation = low
	}
	m.Tasks, m.TasksMax = readOptional(dir+"/pids.current"), readOptional(limits+"/pids.max")
	m.Huge = readHuge(dir, ".current", "")
	m.Devices = readIOStat(dir)
	return nil
}

// readCPUMax reads "quota period", where the quota may be "max".
func readCPUMax(file string) (quota, period *uint64) {
	var buf [64]byte
	b, err := readControl(file, buf[:])
	if err != nil {
		return nil, nil
	}
	for i, field := range strings.Fields(string(b)) {
		v, err := strconv.ParseUint(field, 10, 64)
		switch {
		case err != nil:
		case i == 0:
			quota = &v
		case i == 1:
			period = &v
		}
	}
	return quota, period
}

// readHuge reads hugetlb.2MB.current and its like.
func readHuge(dir, usage, peak string) []HugeUsage {
	files, err := filepath.Glob(dir + "/hugetlb.*" + usage)
	if err != nil {
		return nil
	}
	var huge []HugeUsage
	for _, file := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), usage)
		v := readOptional(file)
		if v == nil || strings.Contains(size, ".") { // hugetlb.2MB.rsvd.current
			continue
		}
		u := HugeUsage{Size: size, Usage: *v}
		if peak != "" {
			u.Peak = readOptional(dir + "/hugetlb." + size + peak)
		}
		huge = append(huge, u)
	}
	return huge
}
