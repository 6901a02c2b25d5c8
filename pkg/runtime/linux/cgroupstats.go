package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// CgroupStats is what a cgroup has used. A value the kernel does not offer on
// this machine is nil.
type CgroupStats struct {
	Time            time.Time // when it was read
	CPUNanoseconds  *uint64   // since the cgroup was made
	MemoryUsage     *uint64   // bytes, page cache included
	WorkingSet      *uint64   // usage less inactive page cache, as kubelet and cadvisor define it
	RSS             *uint64   // anonymous memory, bytes
	MajorPageFaults *uint64
	PageFaults      *uint64
	MemoryLimit     *uint64 // bytes; nil without a limit
	Swap            *uint64 // bytes
	Processes       *uint64
}

// Stats reads what a cgroup has used. The error is os.ErrNotExist where there
// is no such cgroup.
func (c *Cgroups) Stats(cgroup string) (CgroupStats, error) {
	var s CgroupStats
	s.Time = time.Now()
	read := c.readV1
	if c.unified {
		read = c.readV2
	}
	if err := read(cgroup, &s); err != nil {
		return CgroupStats{}, fmt.Errorf("read statistics of cgroup %s: %w", cgroup, err)
	}
	return s, nil
}

func (c *Cgroups) readV2(cgroup string, s *CgroupStats) error {
	dir := c.dir("", cgroup)
	cpu, err := readKeyed(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return err
	}
	if usec, ok := cpu["usage_usec"]; ok {
		s.CPUNanoseconds = ptr(usec * 1000)
	}
	s.MemoryUsage = readOptional(filepath.Join(dir, "memory.current"))
	s.MemoryLimit = readOptional(filepath.Join(dir, "memory.max"))
	s.Swap = readOptional(filepath.Join(dir, "memory.swap.current"))
	s.Processes = readOptional(filepath.Join(dir, "pids.current"))
	stat, err := readKeyed(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return ignoreNotExist(err) // the memory controller is off
	}
	s.RSS = ptr(stat["anon"])
	s.PageFaults, s.MajorPageFaults = ptr(stat["pgfault"]), ptr(stat["pgmajfault"])
	s.setWorkingSet(stat["inactive_file"])
	return nil
}

func (c *Cgroups) readV1(cgroup string, s *CgroupStats) error {
	if _, ok := c.trees["cpuacct"]; ok {
		usage, err := readNumber(filepath.Join(c.dir("cpuacct", cgroup), "cpuacct.usage"))
		if err != nil {
			return err
		}
		s.CPUNanoseconds = &usage
	}
	if _, ok := c.trees["pids"]; ok {
		s.Processes = readOptional(filepath.Join(c.dir("pids", cgroup), "pids.current"))
	}
	if _, ok := c.trees["memory"]; !ok {
		return nil
	}
	dir := c.dir("memory", cgroup)
	usage, err := readNumber(filepath.Join(dir, "memory.usage_in_bytes"))
	if err != nil {
		return err
	}
	s.MemoryUsage = &usage
	const unlimited = 1 << 62 // v1 says "no limit" as a huge number rounded to a page
	if limit := readOptional(filepath.Join(dir, "memory.limit_in_bytes")); limit != nil && *limit < unlimited {
		s.MemoryLimit = limit
	}
	stat, err := readKeyed(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	s.RSS = ptr(stat["total_rss"])
	s.PageFaults, s.MajorPageFaults = ptr(stat["total_pgfault"]), ptr(stat["total_pgmajfault"])
	if swap, ok := stat["total_swap"]; ok {
		s.Swap = &swap
	}
	s.setWorkingSet(stat["total_inactive_file"])
	return nil
}

func (s *CgroupStats) setWorkingSet(inactiveFile uint64) {
	if s.MemoryUsage == nil {
		return
	}
	s.WorkingSet = ptr(*s.MemoryUsage - min(inactiveFile, *s.MemoryUsage))
}

func ptr(v uint64) *uint64 { return &v }

func readNumber(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(trimSpace(b)), 10, 64)
}

// readOptional is nil for a file that is not there or says "max".
func readOptional(file string) *uint64 {
	v, err := readNumber(file)
	if err != nil {
		return nil
	}
	return &v
}

// readKeyed reads a file of "key number" lines.
func readKeyed(file string) (map[string]uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	values := make(map[string]uint64, 48)
	for line := range bytes.Lines(b) {
		key, number, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(string(number), 10, 64)
		if errors.Is(err, strconv.ErrRange) || errors.Is(err, strconv.ErrSyntax) {
			continue // "max", or a key of a kind this program does not use
		}
		values[string(key)] = v
	}
	return values, nil
}
