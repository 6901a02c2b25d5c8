package stats

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

const (
	// life is how long a reading is told again.
	life = 250 * time.Millisecond
	// minSample is how far apart two readings must be for a rate to mean
	// anything.
	minSample = 100 * time.Millisecond
	// maxFirstSample is how long ago the start of what is read for the first
	// time may be for the rate since then to be the one of now.
	maxFirstSample = time.Minute
	// maxKept is how many cgroups have their files kept open, at most.
	maxKept = 400
	// sequential is how many cgroups are not worth a goroutine.
	sequential = 8
	maxWorkers = 4
)

// Target is a cgroup to read.
type Target struct {
	// ID is the caller's name for it.
	ID     string
	Cgroup string
	// Since is when it began to use anything; zero if that is not known.
	Since time.Time
	// Keep: it will be read again, and Close is called when it has ended.
	Keep bool
}

// Sample is one reading of a cgroup.
type Sample struct {
	linux.CgroupStats
	// NanoCores is the CPU in use now, in billionths of a core; nil if that is
	// not known yet.
	NanoCores *uint64
}

// Result is a Sample or why there is none: os.ErrNotExist if there is no such
// cgroup.
type Result struct {
	Sample
	Err error
}

// Collector reads and remembers. Its methods may be called by many at once.
type Collector struct {
	cgroups *linux.Cgroups
	maxKept int64
	kept    atomic.Int64

	mu       sync.Mutex // guards the maps, not what is in them
	entries  map[string]*entry
	networks map[string]*networkEntry
}

// entry is what is known of one cgroup. Its lock is held while it is read.
type entry struct {
	mu     sync.Mutex
	reader *linux.CgroupReader
	kept   bool
	last   Result
	read   time.Time

	// What the rate counts from, and the rate.
	at    time.Time
	usage uint64
	rate  *uint64

	metrics     linux.CgroupMetrics
	metricsErr  error
	metricsRead time.Time
	processes   linux.ProcessUsage

	count     uint64
	countRead time.Time
}

// New returns a Collector without any entries.
func New(cgroups *linux.Cgroups) *Collector {
	c := &Collector{cgroups: cgroups, maxKept: maxKept, entries: map[string]*entry{}, networks: map[string]*networkEntry{}}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		// A quarter of what the daemon may have open.
		c.maxKept = int64(min(maxKept, limit.Cur/4/linux.MaxReaderFiles))
	}
	return c
}

func (c *Collector) entry(id string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil {
		e = &entry{}
		c.entries[id] = e
	}
	return e
}

// Sample reads one cgroup.
func (c *Collector) Sample(t Target) (Sample, error) {
	e := c.entry(t.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.read) < life {
		return e.last.Sample, e.last.Err
	}
	c.readLocked(e, t)
	return e.last.Sample, e.last.Err
}

func (c *Collector) readLocked(e *entry, t Target) {
	if e.reader == nil {
		keep := t.Keep && c.kept.Add(1) <= c.maxKept
		if t.Keep && !keep {
			c.kept.Add(-1)
		}
		e.reader, e.kept = c.cgroups.Reader(t.Cgroup, keep), keep
	}
	s, err := e.reader.Stats()
	if err != nil {
		e.last, e.read = Result{Err: err}, time.Now()
		c.closeLocked(e)
		c.forget(t.ID, e)
		return
	}
	e.last = Result{Sample: Sample{CgroupStats: s}}
	e.read = s.Time
	if s.CPUNanoseconds != nil {
		e.last.NanoCores = e.rateLocked(s.Time, *s.CPUNanoseconds, t.Since)
	}
}

// forget takes an entry out whose cgroup cannot be read: it may have been
// dropped meanwhile, and nobody would do so again.
func (c *Collector) forget(id string, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[id] == e {
		delete(c.entries, id)
	}
}

// rateLocked notes a reading and returns the rate as of it.
func (e *entry) rateLocked(at time.Time, usage uint64, since time.Time) *uint64 {
	from, before := e.at, e.usage
	if from.IsZero() {
		if since.IsZero() || at.Sub(since) > maxFirstSample {
			e.at, e.usage = at, usage
			return nil
		}
		from, before = since, 0
	}
	passed := at.Sub(from)
	if passed < minSample {
		return e.rate
	}
	if usage < before { // the cgroup is another one
		before = usage
	}
	rate := uint64(float64(usage-before) / passed.Seconds())
	e.at, e.usage, e.rate = at, usage, &rate
	return e.rate
}

// Samples reads many cgroups; the results are in the order of the targets.
func (c *Collector) Samples(targets []Target) []Result {
	results := make([]Result, len(targets))
	c.each(len(targets), func(i int) {
		s, err := c.Sample(targets[i])
		results[i] = Result{s, err}
	})
	return results
}

// each calls do for 0 … n-1, by several goroutines where it is worth it.
func (c *Collector) each(n int, do func(i int)) {
	workers := min(maxWorkers, runtime.GOMAXPROCS(0), n/sequential)
	if workers < 2 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	group.Wait()
}

// Detail is what only monitoring wants to know of a cgroup.
type Detail struct {
	linux.CgroupMetrics
	Processes linux.ProcessUsage
	Err       error
}

// Details reads what Samples does not, of many cgroups.
func (c *Collector) Details(targets []Target) []Detail {
	details := make([]Detail, len(targets))
	c.each(len(targets), func(i int) { details[i] = c.detail(targets[i]) })
	return details
}

func (c *Collector) detail(t Target) Detail {
	e := c.entry(t.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.metricsRead) >= life {
		e.metrics, e.metricsErr = c.cgroups.Metrics(t.Cgroup)
		if e.metricsErr == nil {
			e.processes, e.metricsErr = c.cgroups.ProcessUsage(t.Cgroup)
		}
		e.metricsRead = time.Now()
	}
	return Detail{e.metrics, e.processes, e.metricsErr}
}

// Processes counts the processes of many cgroups and those below them. One that
// is not there has none.
func (c *Collector) Processes(targets []Target) []uint64 {
	counts := make([]uint64, len(targets))
	c.each(len(targets), func(i int) {
		e := c.entry(targets[i].ID)
		e.mu.Lock()
		defer e.mu.Unlock()
		if time.Since(e.countRead) >= life {
			e.count, e.countRead = c.cgroups.CountProcesses(targets[i].Cgroup), time.Now()
		}
		counts[i] = e.count
	})
	return counts
}

// Close lets go of the descriptors of a cgroup that has ended. What was read of
// it last is not told again.
func (c *Collector) Close(id string) {
	c.mu.Lock()
	e := c.entries[id]
	c.mu.Unlock()
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.read, e.metricsRead, e.countRead = time.Time{}, time.Time{}, time.Time{}
	c.closeLocked(e)
}

func (c *Collector) closeLocked(e *entry) {
	if e.reader == nil {
		return
	}
	e.reader.Close()
	if e.kept {
		c.kept.Add(-1)
	}
	e.reader, e.kept = nil, false
}

// Drop forgets all that has an id.
func (c *Collector) Drop(id string) {
	c.Close(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, id)
	delete(c.networks, id)
}

// networkEntry is what is known of the network of one pod; Collector.mu guards
// it.
type networkEntry struct {
	usage []network.Usage
	read  time.Time
}

// NetworkTarget is the network of a pod to read.
type NetworkTarget struct{ ID, Path string }

// NetworkUsage is what was read, and when. Interfaces is nil if the namespace is
// not there.
type NetworkUsage struct {
	Interfaces []network.Usage
	Time       time.Time
}

// Networks reads the interfaces of many pods; the results are in the order of
// the targets. An error tells of the namespaces that could not be read, which
// lack their result.
func (c *Collector) Networks(targets []NetworkTarget) ([]NetworkUsage, error) {
	now := time.Now()
	results := make([]NetworkUsage, len(targets))
	var paths []string
	var index []int
	c.mu.Lock()
	for i, t := range targets {
		if e := c.networks[t.ID]; e != nil && now.Sub(e.read) < life {
			results[i] = NetworkUsage{e.usage, e.read}
		} else {
			paths, index = append(paths, t.Path), append(index, i)
		}
	}
	c.mu.Unlock()
	if len(paths) == 0 {
		return results, nil
	}
	all, err := network.ReadUsage(paths)
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, i := range index {
		results[i] = NetworkUsage{all[n], now}
		if all[n] != nil {
			c.networks[targets[i].ID] = &networkEntry{all[n], now}
		}
	}
	return results, err
}
