package linux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestReadKeyed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.stat")
	if err := os.WriteFile(file, []byte("anon 12\nfile 18446744073709551615\nodd\nanon_thp max\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	anon, missing := uint64(0), uint64(5)
	if err := readKeyed(file, new(statBuffer), map[string]*uint64{"anon": &anon, "none": &missing}); err != nil || anon != 12 || missing != 5 {
		t.Fatalf("anon %d, missing %d, %v", anon, missing, err)
	}
	if err := readKeyed(file, new(statBuffer), map[string]*uint64{"anon_thp": &anon}); err == nil {
		t.Error("a value that is no number was taken")
	}
	if err := readKeyed(filepath.Join(t.TempDir(), "none"), new(statBuffer), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestReadOptional(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"number": "42\n", "max": "max\n", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if v := readOptional(filepath.Join(dir, "number")); v == nil || *v != 42 {
		t.Errorf("number is %v", v)
	}
	for _, name := range []string{"max", "empty", "missing"} {
		if v := readOptional(filepath.Join(dir, name)); v != nil {
			t.Errorf("%s is %d", name, *v)
		}
	}
}

func TestLimitDir(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"runc.scope", "crun.scope/container", "path/container"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]string{"runc.scope": "runc.scope", "crun.scope": "crun.scope/container", "path": "path"} {
		if got := limitDir(filepath.Join(root, dir)); got != filepath.Join(root, want) {
			t.Errorf("limits of %s are in %s", dir, got)
		}
	}
}

// fixtures are cgroups of both versions with the same numbers in them.
func fixtures(t *testing.T) map[string]*Cgroups {
	t.Helper()
	v1 := &Cgroups{trees: map[string]string{}}
	for _, name := range []string{"cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"} {
		v1.trees[name] = filepath.Join("testdata/v1", name)
	}
	return map[string]*Cgroups{"v1": v1, "v2": {unified: true, root: "testdata/v2"}}
}

func TestCgroupStats(t *testing.T) {
	for version, c := range fixtures(t) {
		t.Run(version, func(t *testing.T) {
			for _, keep := range []bool{false, true} {
				r := c.Reader("/pod/c", keep)
				for range 2 {
					checkStats(t, r, version)
				}
				if open := r.files[fileMemory].fd != 0; open != keep {
					t.Errorf("a file is open: %v, want %v", open, keep)
				}
				r.Close()
				r.Close()
				checkStats(t, r, version)
				r.Close()
			}
			if _, err := c.Stats("/pod/none"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a cgroup that is not there: %v", err)
			}
		})
	}
}

func checkStats(t *testing.T, r *CgroupReader, version string) {
	t.Helper()
	s, err := r.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []struct {
		name string
		got  *uint64
		want uint64
	}{
		{"cpu", s.CPUNanoseconds, 5_000_000_000},
		{"memory", s.MemoryUsage, 9_000_000},
		{"working set", s.WorkingSet, 7_000_000},
		{"rss", s.RSS, 2097152},
		{"faults", s.PageFaults, 400},
		{"major faults", s.MajorPageFaults, 4},
		{"limit", s.MemoryLimit, 67108864},
		{"swap", s.Swap, 20480},
	} {
		if value.got == nil || *value.got != value.want {
			t.Errorf("%s is %v, want %d", value.name, value.got, value.want)
		}
	}
	if version == "v1" {
		if s.SwapLimit == nil || *s.SwapLimit != 67108864 || s.CPUPressure != nil {
			t.Errorf("swap limit %v, pressure %v", s.SwapLimit, s.CPUPressure)
		}
		return
	}
	want := Pressure{
		Some: PressureLine{Avg10: 1.5, Avg60: 2.25, Total: 3 * time.Second},
		Full: PressureLine{Avg10: 0.5, Total: time.Second},
	}
	for _, p := range []*Pressure{s.CPUPressure, s.MemoryPressure, s.IOPressure} {
		if p == nil || *p != want {
			t.Errorf("pressure %+v, want %+v", p, want)
		}
	}
	if s.SwapLimit != nil {
		t.Errorf("swap limit %d where there is none", *s.SwapLimit)
	}
}

func TestCgroupMetrics(t *testing.T) {
	for version, c := range fixtures(t) {
		t.Run(version, func(t *testing.T) {
			m, err := c.Metrics("/pod/c")
			if err != nil {
				t.Fatal(err)
			}
			if m.CPUUser != 3*time.Second || m.CPUSystem != 2*time.Second || m.Periods != 10 || m.ThrottledPeriods != 4 || m.ThrottledTime != 6*time.Second {
				t.Errorf("cpu: %+v", m)
			}
			if m.CPUQuota != nil || m.CPUPeriod == nil || *m.CPUPeriod != 100000 || m.CPUShares == nil || *m.CPUShares < 500 || *m.CPUShares > 512 {
				t.Errorf("cpu limits: %v %v %v", m.CPUQuota, m.CPUPeriod, m.CPUShares)
			}
			if m.Cache != 5_000_000 || m.MappedFile != 16384 || *m.KernelMemory != 65536 || *m.PeakMemory != 9_500_000 ||
				m.LimitHits != 7 || m.OOMKills != 2 || m.Reservation != nil {
				t.Errorf("memory: %+v", m)
			}
			reclaim := Reclaim{HighHits: 6, Dirty: 4096, Writeback: 8192, Scanned: 30, Stolen: 20, RefaultsFile: 9, RefaultsAnon: 8}
			if version == "v1" && m.Reclaim != nil || version != "v1" && (m.Reclaim == nil || *m.Reclaim != reclaim) {
				t.Errorf("reclaim: %+v", m.Reclaim)
			}
			if m.Tasks == nil || *m.Tasks != 3 {
				t.Errorf("tasks: %v", m.Tasks)
			}
			if len(m.Huge) != 1 || m.Huge[0].Size != "2MB" || m.Huge[0].Usage != 4194304 || (m.Huge[0].Peak != nil) != (version == "v1") {
				t.Errorf("huge pages: %+v", m.Huge)
			}
			if len(m.Devices) != 1 {
				t.Fatalf("devices: %+v", m.Devices)
			}
			d := m.Devices[0]
			if d.Major != 8 || d.Minor != 0 || d.ReadBytes != 4096 || d.WriteBytes != 8192 || d.Reads != 1 || d.Writes != 2 || d.HasAsync != (version == "v1") {
				t.Errorf("device: %+v", d)
			}
			if _, err := c.Metrics("/pod/none"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a cgroup that is not there: %v", err)
			}
		})
	}
}

// TestReaderOutlivesCgroup: an open file of a removed cgroup says so, and keeps
// the cgroup from nothing.
func TestReaderOutlivesCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c, err := DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	const name = "/cri-node-test-stats"
	if err := c.Create(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Remove(name) })
	r := c.Reader(name, true)
	defer r.Close()
	if _, err := r.Stats(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Metrics(name); err != nil {
		t.Error(err)
	}
	if u, err := c.ProcessUsage(name); err != nil || u.Processes != 0 || c.CountProcesses(name) != 0 {
		t.Errorf("processes: %+v, %v", u, err)
	}
	if err := c.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Stats(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("statistics of a removed cgroup: %v", err)
	}
}
