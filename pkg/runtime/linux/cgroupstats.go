package linux

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
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
	var usec uint64
	if err := readKeyed(filepath.Join(dir, "cpu.stat"), map[string]*uint64{"usage_usec": &usec}); err != nil {
		return err
	}
	s.CPUNanoseconds = ptr(usec * 1000)
	s.MemoryUsage = readOptional(filepath.Join(dir, "memory.current"))
	s.MemoryLimit = readOptional(filepath.Join(dir, "memory.max"))
	s.Swap = readOptional(filepath.Join(dir, "memory.swap.current"))
	s.Processes = readOptional(filepath.Join(dir, "pids.current"))
	var anon, faults, major, inactive uint64
	err := readKeyed(filepath.Join(dir, "memory.stat"), map[string]*uint64{
		"anon": &anon, "pgfault": &faults, "pgmajfault": &major, "inactive_file": &inactive,
	})
	if err != nil {
		return ignoreNotExist(err) // the memory controller is off
	}
	s.RSS, s.PageFaults, s.MajorPageFaults = &anon, &faults, &major
	s.setWorkingSet(inactive)
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
	const noSwap = math.MaxUint64 // total_swap is there only with swap accounting
	rss, faults, major, inactive, swap := uint64(0), uint64(0), uint64(0), uint64(0), uint64(noSwap)
	err = readKeyed(filepath.Join(dir, "memory.stat"), map[string]*uint64{
		"total_rss": &rss, "total_pgfault": &faults, "total_pgmajfault": &major, "total_inactive_file": &inactive, "total_swap": &swap,
	})
	if err != nil {
		return err
	}
	s.RSS, s.PageFaults, s.MajorPageFaults = &rss, &faults, &major
	if swap != noSwap {
		s.Swap = &swap
	}
	s.setWorkingSet(inactive)
	return nil
}

func (s *CgroupStats) setWorkingSet(inactiveFile uint64) {
	if s.MemoryUsage == nil {
		return
	}
	s.WorkingSet = ptr(*s.MemoryUsage - min(inactiveFile, *s.MemoryUsage))
}

func ptr(v uint64) *uint64 { return &v }

// readControl reads a control file with three system calls, where os.ReadFile
// makes seven: a list of statistics reads five files for each container. buf
// must be larger than the file can be.
func readControl(file string, buf []byte) (content []byte, err error) {
	var fd int
	err = retry(func() (err error) {
		fd, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	var n int
	err = retry(func() (err error) {
		n, err = unix.Read(fd, buf)
		return err
	})
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return nil, &os.PathError{Op: "read", Path: file, Err: err}
	}
	return buf[:n], nil
}

func readNumber(file string) (uint64, error) {
	var buf [32]byte
	b, err := readControl(file, buf[:])
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

// readKeyed reads a file of "key number" lines into the values asked for; those
// it does not have keep what they were. Other keys cost next to nothing.
func readKeyed(file string, want map[string]*uint64) error {
	var buf [8 << 10]byte
	b, err := readControl(file, buf[:])
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		key, number, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			continue
		}
		to, ok := want[string(key)] // does not allocate
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(string(trimSpace(number)), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, key, err)
		}
		*to = v
	}
	return nil
}
