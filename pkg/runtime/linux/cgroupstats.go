package linux

import (
	"fmt"
	"io/fs"
	"math"
	"strings"
	"sync"
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
	SwapLimit       *uint64 // bytes of swap alone; nil without a limit

	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// Pressure is what PSI says of one resource (Documentation/accounting/psi.rst).
type Pressure struct{ Some, Full PressureLine }

// PressureLine is how long some or all tasks waited: shares of time in per cent
// over the last 10, 60 and 300 seconds, and the sum of it.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// The files that statistics are read from at every call, as indices into the
// descriptors of a CgroupReader.
const (
	fileCPU = iota
	fileMemory
	fileMemoryLimit
	fileMemoryStat
	fileSwap
	fileSwapLimit
	fileCPUPressure
	fileMemoryPressure
	fileIOPressure
	statFiles
)

// statFile is a control file; controller chooses the tree on v1.
type statFile struct{ controller, name string }

var statFilesV1 = [statFiles]statFile{
	fileCPU:         {"cpuacct", "cpuacct.usage"},
	fileMemory:      {"memory", "memory.usage_in_bytes"},
	fileMemoryLimit: {"memory", "memory.limit_in_bytes"},
	fileMemoryStat:  {"memory", "memory.stat"},
	fileSwapLimit:   {"memory", "memory.memsw.limit_in_bytes"},
}

var statFilesV2 = [statFiles]statFile{
	fileCPU:            {"", "cpu.stat"},
	fileMemory:         {"", "memory.current"},
	fileMemoryLimit:    {"", "memory.max"},
	fileMemoryStat:     {"", "memory.stat"},
	fileSwap:           {"", "memory.swap.current"},
	fileSwapLimit:      {"", "memory.swap.max"},
	fileCPUPressure:    {"", "cpu.pressure"},
	fileMemoryPressure: {"", "memory.pressure"},
	fileIOPressure:     {"", "io.pressure"},
}

// MaxReaderFiles is how many descriptors a CgroupReader may keep.
const MaxReaderFiles = statFiles

// CgroupReader reads the statistics of one cgroup again and again. To open a
// control file costs ten times what reading it does, so the reader can keep
// them open; that keeps the cgroup from nothing. Its methods may be called by
// many at once.
type CgroupReader struct {
	cgroups *Cgroups
	cgroup  string
	keep    bool

	mu    sync.Mutex
	files [statFiles]keptFile
	// The limits, and when they were read.
	memoryLimit, swapLimit *uint64
	limitsRead             time.Time
}

// limitLife is for how long limits are not read again. Who changes them calls
// Close; this is for those who go behind its back.
const limitLife = 10 * time.Second

// Reader returns a reader of a cgroup, which need not exist yet. With keep it
// holds descriptors until Close.
func (c *Cgroups) Reader(cgroup string, keep bool) *CgroupReader {
	return &CgroupReader{cgroups: c, cgroup: cgroup, keep: keep}
}

// Close lets go of the descriptors and forgets the limits. A later Stats opens
// the files again.
func (r *CgroupReader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked()
}

func (r *CgroupReader) closeLocked() {
	for i := range r.files {
		r.files[i].close()
	}
	r.limitsRead = time.Time{}
}

// Stats reads what the cgroup has used. The error is os.ErrNotExist where there
// is no such cgroup.
func (r *CgroupReader) Stats() (CgroupStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := CgroupStats{Time: time.Now()}
	buf := r.cgroups.buffer()
	defer r.cgroups.buffers.Put(buf)
	var err error
	if r.cgroups.unified {
		err = r.readV2(&s, buf)
	} else {
		err = r.readV1(&s, buf)
	}
	if err != nil || !r.keep {
		r.closeLocked()
	}
	if err != nil {
		return CgroupStats{}, fmt.Errorf("read statistics of cgroup %s: %w", r.cgroup, err)
	}
	return s, nil
}

// Stats reads once what a cgroup has used; see CgroupReader.
func (c *Cgroups) Stats(cgroup string) (CgroupStats, error) {
	return c.Reader(cgroup, false).Stats()
}

// read returns the content of a file, in buf. The error is fs.ErrNotExist also
// for a cgroup that was removed while its files are open.
func (r *CgroupReader) read(file int, buf []byte) ([]byte, error) {
	f := statFilesV1[file]
	if r.cgroups.unified {
		f = statFilesV2[file]
	} else if _, ok := r.cgroups.trees[f.controller]; !ok {
		return nil, fs.ErrNotExist
	}
	return r.files[file].read(func() string {
		dir := r.cgroups.dir(f.controller, r.cgroup)
		if file == fileMemoryLimit || file == fileSwapLimit {
			dir = limitDir(dir)
		}
		return dir + "/" + f.name
	}, buf)
}

// limitDir is where the limits of a cgroup are. In the scope that systemd makes
// for a container crun makes another cgroup, "container", and limits only that:
// systemd sets a scope back to what itself knows of it.
func limitDir(dir string) string {
	inner := dir + "/container"
	if !strings.HasSuffix(dir, ".scope") || !exists(inner) {
		return dir
	}
	return inner
}

// number reads a file that holds one number.
func (r *CgroupReader) number(file int, buf *statBuffer) (uint64, error) {
	b, err := r.read(file, buf[:])
	if err != nil {
		return 0, err
	}
	return parseNumber(b)
}

// optional is nil for a file that is not there or says "max".
func (r *CgroupReader) optional(file int, buf *statBuffer) *uint64 {
	v, err := r.number(file, buf)
	if err != nil {
		return nil
	}
	return &v
}

// unlimitedV1 is how v1 says "no limit": a huge number rounded to a page.
const unlimitedV1 = 1 << 62

func (r *CgroupReader) limitV1(file int, buf *statBuffer) *uint64 {
	if v := r.optional(file, buf); v != nil && *v < unlimitedV1 {
		return v
	}
	return nil
}

func (r *CgroupReader) readV1(s *CgroupStats, buf *statBuffer) error {
	if _, ok := r.cgroups.trees["cpuacct"]; ok {
		usage, err := r.number(fileCPU, buf)
		if err != nil {
			return err
		}
		s.CPUNanoseconds = &usage
	}
	if _, ok := r.cgroups.trees["memory"]; !ok {
		return nil
	}
	usage, err := r.number(fileMemory, buf)
	if err != nil {
		return err
	}
	s.MemoryUsage = &usage
	if s.Time.Sub(r.limitsRead) >= limitLife {
		r.memoryLimit, r.swapLimit, r.limitsRead = r.limitV1(fileMemoryLimit, buf), nil, s.Time
		if both := r.limitV1(fileSwapLimit, buf); both != nil && r.memoryLimit != nil {
			r.swapLimit = ptr(*both - min(*both, *r.memoryLimit))
		}
	}
	s.MemoryLimit, s.SwapLimit = r.memoryLimit, r.swapLimit
	b, err := r.read(fileMemoryStat, buf[:])
	if err != nil {
		return err
	}
	const none = math.MaxUint64 // total_swap is there only with swap accounting
	rss, faults, major, inactive, swap := uint64(0), uint64(0), uint64(0), uint64(0), uint64(none)
	err = eachKeyed(b, func(key []byte) *uint64 {
		switch string(key) {
		case "total_rss":
			return &rss
		case "total_pgfault":
			return &faults
		case "total_pgmajfault":
			return &major
		case "total_inactive_file":
			return &inactive
		case "total_swap":
			return &swap
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.RSS, s.PageFaults, s.MajorPageFaults = &rss, &faults, &major
	if swap != none {
		s.Swap = &swap
	}
	s.setWorkingSet(inactive)
	return nil
}

func (r *CgroupReader) readV2(s *CgroupStats, buf *statBuffer) error {
	b, err := r.read(fileCPU, buf[:])
	if err != nil {
		return err
	}
	var usec uint64
	err = eachKeyed(b, func(key []byte) *uint64 {
		if string(key) == "usage_usec" {
			return &usec
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.CPUNanoseconds = ptr(usec * 1000)
	s.MemoryUsage = r.optional(fileMemory, buf)
	s.Swap = r.optional(fileSwap, buf)
	if s.Time.Sub(r.limitsRead) >= limitLife {
		r.memoryLimit, r.swapLimit, r.limitsRead = r.optional(fileMemoryLimit, buf), r.optional(fileSwapLimit, buf), s.Time
	}
	s.MemoryLimit, s.SwapLimit = r.memoryLimit, r.swapLimit
	s.CPUPressure = r.pressure(fileCPUPressure, buf)
	s.MemoryPressure = r.pressure(fileMemoryPressure, buf)
	s.IOPressure = r.pressure(fileIOPressure, buf)
	if b, err = r.read(fileMemoryStat, buf[:]); err != nil {
		return ignoreNotExist(err) // the memory controller is off
	}
	var anon, faults, major, inactive uint64
	err = eachKeyed(b, func(key []byte) *uint64 {
		switch string(key) {
		case "anon":
			return &anon
		case "pgfault":
			return &faults
		case "pgmajfault":
			return &major
		case "inactive_file":
			return &inactive
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.RSS, s.PageFaults, s.MajorPageFaults = &anon, &faults, &major
	s.setWorkingSet(inactive)
	return nil
}

// pressure is nil where the kernel keeps no PSI, or was told not to.
func (r *CgroupReader) pressure(file int, buf *statBuffer) *Pressure {
	b, err := r.read(file, buf[:])
	if err != nil {
		return nil
	}
	return parsePressure(b)
}

func (s *CgroupStats) setWorkingSet(inactiveFile uint64) {
	if s.MemoryUsage == nil {
		return
	}
	s.WorkingSet = ptr(*s.MemoryUsage - min(inactiveFile, *s.MemoryUsage))
}

func ptr(v uint64) *uint64 { return &v }
