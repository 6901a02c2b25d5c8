package cri

import (
	"slices"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// everything is a machine that can tell all there is.
func everything() linux.CgroupOffers {
	return linux.CgroupOffers{
		CPU: true, CPUQuota: true, Memory: true, PeakMemory: true, KernelMemory: true, Reclaim: true, Tasks: true,
		Devices: true, Huge: true, HugePeak: true, Pressure: true,
	}
}

// TestMetricTable: every name once, with help and labels, and each sample with
// as many labels as the descriptor says.
func TestMetricTable(t *testing.T) {
	table := newMetricTable(everything())
	if len(table.descriptors) != 64 || len(table.metrics) != 64 {
		t.Errorf("%d descriptors, %d metrics", len(table.descriptors), len(table.metrics))
	}
	one := uint64(1)
	source := &metricSource{
		now: time.Now(), layered: true, disk: disk{known: true, device: "/dev/x"}, names: map[[2]uint32]string{},
		member: memberReading{status: &runtime.Status{}, sample: stats.Sample{CgroupStats: linux.CgroupStats{
			CPUPressure: &linux.Pressure{}, MemoryPressure: &linux.Pressure{}, IOPressure: &linux.Pressure{},
		}}},
		detail: stats.Detail{
			CgroupMetrics: linux.CgroupMetrics{
				KernelMemory: &one, PeakMemory: &one, Reclaim: &linux.Reclaim{}, CPUQuota: &one, Huge: []linux.HugeUsage{{Size: "2MB", Peak: &one}},
			},
			Processes: linux.ProcessUsage{OpenFilesSoft: &one},
		},
	}
	seen := map[string]bool{}
	for i, m := range table.metrics {
		d := table.descriptors[i]
		if seen[m.name] || m.help == "" || d.Name != m.name || !slices.Equal(d.LabelKeys[:6], baseLabels()) {
			t.Errorf("metric %s: %v", m.name, d)
		}
		seen[m.name] = true
		if (m.container == nil) == (m.nic == nil) {
			t.Errorf("%s is of a container and of an interface, or of neither", m.name)
		}
		if m.nic != nil {
			m.nic(&network.Usage{})
			continue
		}
		values := m.container(source)
		if len(values) == 0 {
			t.Errorf("%s has no sample", m.name)
		}
		for _, v := range values {
			if len(v.labels) != len(m.labels) {
				t.Errorf("%s has labels %q for %q", m.name, v.labels, m.labels)
			}
		}
		// Where there is nothing there may be no sample, but no panic either.
		m.container(&metricSource{member: memberReading{status: &runtime.Status{}}, names: map[[2]uint32]string{}})
	}
}

// TestOffered: what this machine does not always tell is not promised.
func TestOffered(t *testing.T) {
	none := newMetricTable(linux.CgroupOffers{})
	for _, d := range none.descriptors {
		switch d.Name {
		case "container_cpu_usage_seconds_total", "container_pressure_io_stalled_seconds_total", "container_memory_rss",
			"container_hugetlb_usage_bytes", "container_threads", "container_fs_reads_total":
			t.Errorf("%s is promised by a machine without cgroups", d.Name)
		}
	}
	if len(none.descriptors) < 15 {
		t.Errorf("%d descriptors", len(none.descriptors))
	}
}

// TestTotal: a pod without a cgroup of its own has the sum of its containers.
func TestTotal(t *testing.T) {
	sample := func(cpu, memory uint64, rate *uint64) memberReading {
		return memberReading{sample: stats.Sample{
			CgroupStats: linux.CgroupStats{Time: time.Unix(5, 0), CPUNanoseconds: &cpu, MemoryUsage: &memory, MemoryLimit: &memory},
			NanoCores:   rate,
		}}
	}
	rate := uint64(7)
	r := podReading{time: time.Unix(1, 0), members: []memberReading{sample(1, 10, &rate), sample(2, 20, &rate)}}
	sum := r.total()
	if *sum.CPUNanoseconds != 3 || *sum.MemoryUsage != 30 || *sum.NanoCores != 14 || sum.MemoryLimit != nil || sum.RSS != nil || sum.Time != time.Unix(5, 0) {
		t.Errorf("%+v", sum)
	}
	if again := r.total(); *again.CPUNanoseconds != 3 || rate != 7 {
		t.Error("summing up has changed what was read")
	}
	r.members = append(r.members, sample(3, 30, nil))
	if sum := r.total(); sum.NanoCores != nil || *sum.CPUNanoseconds != 6 {
		t.Errorf("with a rate that is not known: %+v", sum)
	}
	r = podReading{time: time.Unix(1, 0)}
	if sum := r.total(); sum.CPUNanoseconds != nil || sum.Time != time.Unix(1, 0) {
		t.Errorf("of nothing: %+v", sum)
	}
}
