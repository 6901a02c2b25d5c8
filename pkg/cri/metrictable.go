package cri

import (
	"slices"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// one is a metric with one sample.
func one(f func(s *metricSource) uint64) func(s *metricSource) []metricValue {
	return func(s *metricSource) []metricValue { return []metricValue{{value: f(s)}} }
}

// known is a metric with a sample where there is a value.
func known(f func(s *metricSource) *uint64) func(s *metricSource) []metricValue {
	return func(s *metricSource) []metricValue {
		if v := f(s); v != nil {
			return []metricValue{{value: *v}}
		}
		return nil
	}
}

// orZero is the value of what is 0 where there is none, such as a limit.
func orZero(v *uint64) uint64 {
	if v == nil {
		return 0
	}
	return *v
}

// wholeSeconds: CRI's values are whole numbers, and the names say seconds.
func wholeSeconds(d time.Duration) uint64 { return uint64(d / time.Second) }

func offersCPU(o linux.CgroupOffers) bool     { return o.CPU }
func offersQuota(o linux.CgroupOffers) bool   { return o.CPUQuota }
func offersMemory(o linux.CgroupOffers) bool  { return o.Memory }
func offersDevices(o linux.CgroupOffers) bool { return o.Devices }

func cpuMetrics() []metric {
	return []metric{
		{
			name: "container_cpu_usage_seconds_total", help: "Cumulative CPU time consumed in seconds.", kind: counter,
			labels: []string{"cpu"}, offered: offersCPU,
			container: func(s *metricSource) []metricValue {
				return []metricValue{{orZero(s.member.sample.CPUNanoseconds) / uint64(time.Second), []string{"total"}}}
			},
		},
		{
			name: "container_cpu_user_seconds_total", help: "Cumulative user CPU time consumed in seconds.", kind: counter,
			offered:   offersCPU,
			container: one(func(s *metricSource) uint64 { return wholeSeconds(s.detail.CPUUser) }),
		},
		{
			name: "container_cpu_system_seconds_total", help: "Cumulative system CPU time consumed in seconds.", kind: counter,
			offered:   offersCPU,
			container: one(func(s *metricSource) uint64 { return wholeSeconds(s.detail.CPUSystem) }),
		},
		{
			name: "container_cpu_cfs_periods_total", help: "Number of elapsed enforcement period intervals.", kind: counter,
			offered:   offersQuota,
			container: one(func(s *metricSource) uint64 { return s.detail.Periods }),
		},
		{
			name: "container_cpu_cfs_throttled_periods_total", help: "Number of throttled period intervals.", kind: counter,
			offered:   offersQuota,
			container: one(func(s *metricSource) uint64 { return s.detail.ThrottledPeriods }),
		},
		{
			name: "container_cpu_cfs_throttled_seconds_total", help: "Total time duration the container has been throttled.", kind: counter,
			offered:   offersQuota,
			container: one(func(s *metricSource) uint64 { return wholeSeconds(s.detail.ThrottledTime) }),
		},
	}
}

func memoryMetrics() []metric {
	value := func(name, help string, f func(s *metricSource) uint64) metric {
		return metric{name: name, help: help, kind: gauge, offered: offersMemory, container: one(f)}
	}
	return []metric{
		value("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.",
			func(s *metricSource) uint64 { return orZero(s.member.sample.MemoryUsage) }),
		value("container_memory_working_set_bytes", "Current working set in bytes.",
			func(s *metricSource) uint64 { return orZero(s.member.sample.WorkingSet) }),
		value("container_memory_rss", "Size of RSS in bytes.",
			func(s *metricSource) uint64 { return orZero(s.member.sample.RSS) }),
		value("container_memory_swap", "Container swap usage in bytes.",
			func(s *metricSource) uint64 { return orZero(s.member.sample.Swap) }),
		value("container_memory_cache", "Number of bytes of page cache memory.",
			func(s *metricSource) uint64 { return s.detail.Cache }),
		value("container_memory_mapped_file", "Size of memory mapped files in bytes.",
			func(s *metricSource) uint64 { return s.detail.MappedFile }),
		{
			name: "container_memory_kernel_usage", help: "Size of kernel memory allocated in bytes.", kind: gauge,
			offered:   func(o linux.CgroupOffers) bool { return o.KernelMemory },
			container: known(func(s *metricSource) *uint64 { return s.detail.KernelMemory }),
		},
		{
			name: "container_memory_max_usage_bytes", help: "Maximum memory usage recorded in bytes.", kind: gauge,
			offered:   func(o linux.CgroupOffers) bool { return o.PeakMemory },
			container: known(func(s *metricSource) *uint64 { return s.detail.PeakMemory }),
		},
		{
			name: "container_memory_failcnt", help: "Number of memory usage hits limits.", kind: counter, offered: offersMemory,
			container: one(func(s *metricSource) uint64 { return s.detail.LimitHits }),
		},
		{
			name: "container_oom_events_total", help: "Count of out of memory events observed for the container.", kind: counter,
			offered: offersMemory, container: one(func(s *metricSource) uint64 { return s.detail.OOMKills }),
		},
		{
			name: "container_memory_failures_total", help: "Cumulative count of memory allocation failures.", kind: counter,
			labels: []string{"failure_type", "scope"}, offered: offersMemory,
			container: func(s *metricSource) []metricValue {
				return []metricValue{
					{s.detail.OwnFaults, []string{"pgfault", "container"}},
					{s.detail.OwnMajorFaults, []string{"pgmajfault", "container"}},
					{orZero(s.member.sample.PageFaults), []string{"pgfault", "hierarchy"}},
					{orZero(s.member.sample.MajorPageFaults), []string{"pgmajfault", "hierarchy"}},
				}
			},
		},
		{
			name: "container_hugetlb_usage_bytes", help: "Current hugepage usage in bytes.", kind: gauge,
			labels: []string{"pagesize"}, offered: func(o linux.CgroupOffers) bool { return o.Huge },
			container: func(s *metricSource) (values []metricValue) {
				for _, h := range s.detail.Huge {
					values = append(values, metricValue{h.Usage, []string{h.Size}})
				}
				return values
			},
		},
		{
			name: "container_hugetlb_max_usage_bytes", help: "Maximum hugepage usage recorded in bytes.", kind: gauge,
			labels: []string{"pagesize"}, offered: func(o linux.CgroupOffers) bool { return o.HugePeak },
			container: func(s *metricSource) (values []metricValue) {
				for _, h := range s.detail.Huge {
					if h.Peak != nil {
						values = append(values, metricValue{*h.Peak, []string{h.Size}})
					}
				}
				return values
			},
		},
	}
}

func diskMetrics() []metric {
	space := func(name, help string, f func(s *metricSource) uint64) metric {
		return metric{name: name, help: help, kind: gauge, labels: []string{"device"}, container: func(s *metricSource) []metricValue {
			if !s.disk.known {
				return nil
			}
			return []metricValue{{f(s), []string{s.disk.device}}}
		}}
	}
	traffic := func(name, help string, f func(d *linux.DeviceUsage) uint64) metric {
		return metric{name: name, help: help, kind: counter, labels: []string{"device"}, offered: offersDevices,
			container: func(s *metricSource) (values []metricValue) {
				for _, d := range s.devices() {
					values = append(values, metricValue{f(&d), []string{s.deviceName(&d)}})
				}
				return values
			}}
	}
	usage := space("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.",
		func(s *metricSource) uint64 { return s.layer })
	always := usage.container
	usage.container = func(s *metricSource) []metricValue {
		if !s.layered {
			return nil // not measured yet: shortly after a restart
		}
		return always(s)
	}
	return []metric{
		usage,
		space("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.",
			func(s *metricSource) uint64 { return s.disk.bytes }),
		space("container_fs_inodes_free", "Number of available inodes.",
			func(s *metricSource) uint64 { return s.disk.inodesFree }),
		space("container_fs_inodes_total", "Number of inodes.",
			func(s *metricSource) uint64 { return s.disk.inodesTotal }),
		traffic("container_fs_reads_bytes_total", "Cumulative count of bytes read.", func(d *linux.DeviceUsage) uint64 { return d.ReadBytes }),
		traffic("container_fs_reads_total", "Cumulative count of reads completed.", func(d *linux.DeviceUsage) uint64 { return d.Reads }),
		traffic("container_fs_writes_bytes_total", "Cumulative count of bytes written.", func(d *linux.DeviceUsage) uint64 { return d.WriteBytes }),
		traffic("container_fs_writes_total", "Cumulative count of writes completed.", func(d *linux.DeviceUsage) uint64 { return d.Writes }),
		{
			name: "container_blkio_device_usage_total", help: "Blkio device bytes usage.", kind: counter,
			labels: []string{"device", "major", "minor", "operation"}, offered: offersDevices,
			container: func(s *metricSource) (values []metricValue) {
				for _, d := range s.devices() {
					name, major, minor := s.deviceName(&d), strconv.Itoa(int(d.Major)), strconv.Itoa(int(d.Minor))
					add := func(operation string, v uint64) {
						values = append(values, metricValue{v, []string{name, major, minor, operation}})
					}
					add("Read", d.ReadBytes)
					add("Write", d.WriteBytes)
					add("Discard", d.DiscardBytes)
					if d.HasAsync {
						add("Sync", d.SyncBytes)
						add("Async", d.AsyncBytes)
					}
				}
				return values
			},
		},
	}
}

// devices are those that the container has used, and in any case the one its
// writable layer is on: a series that begins with the first write has no
// increase for it.
func (s *metricSource) devices() []linux.DeviceUsage {
	devices := s.detail.Devices
	if !s.disk.known {
		return devices
	}
	for _, d := range devices {
		if d.Major == s.disk.major && d.Minor == s.disk.minor {
			return devices
		}
	}
	return append(slices.Clip(devices), linux.DeviceUsage{Major: s.disk.major, Minor: s.disk.minor})
}

// deviceName looks a device up once for all containers.
func (s *metricSource) deviceName(d *linux.DeviceUsage) string {
	key := [2]uint32{d.Major, d.Minor}
	name, ok := s.names[key]
	if !ok {
		name = linux.DeviceName(d.Major, d.Minor)
		s.names[key] = name
	}
	return name
}

func processMetrics() []metric {
	value := func(name, help string, f func(s *metricSource) uint64) metric {
		return metric{name: name, help: help, kind: gauge, container: one(f)}
	}
	offersTasks := func(o linux.CgroupOffers) bool { return o.Tasks }
	threads := value("container_threads", "Number of threads running inside the container.",
		func(s *metricSource) uint64 { return orZero(s.detail.Tasks) })
	most := value("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero.",
		func(s *metricSource) uint64 { return orZero(s.detail.TasksMax) })
	threads.offered, most.offered = offersTasks, offersTasks
	return []metric{
		value("container_processes", "Number of processes running inside the container.",
			func(s *metricSource) uint64 { return s.detail.Processes.Processes }),
		value("container_file_descriptors", "Number of open file descriptors for the container.",
			func(s *metricSource) uint64 { return s.detail.Processes.FDs }),
		value("container_sockets", "Number of open sockets for the container.",
			func(s *metricSource) uint64 { return s.detail.Processes.Sockets }),
		threads, most,
		{
			name: "container_ulimits_soft", kind: gauge, labels: []string{"ulimit"},
			help: "Soft ulimit values for the container root process. Unlimited if it is not there.",
			container: func(s *metricSource) []metricValue {
				if s.detail.Processes.OpenFilesSoft == nil {
					return nil
				}
				return []metricValue{{*s.detail.Processes.OpenFilesSoft, []string{"max_open_files"}}}
			},
		},
		value("container_last_seen", "Last time a container was seen by the exporter.",
			func(s *metricSource) uint64 { return uint64(s.now.Unix()) }),
		value("container_start_time_seconds", "Start time of the container since unix epoch in seconds.",
			func(s *metricSource) uint64 { return uint64(max(0, s.member.status.StartedAt.Unix())) }),
	}
}

// specMetrics are the limits in force. A limit that is not set is 0, or for a
// CPU quota not there.
func specMetrics() []metric {
	return []metric{
		{
			name: "container_spec_cpu_period", help: "CPU period of the container.", kind: gauge, offered: offersQuota,
			container: one(func(s *metricSource) uint64 { return orZero(s.detail.CPUPeriod) }),
		},
		{
			name: "container_spec_cpu_quota", help: "CPU quota of the container.", kind: gauge, offered: offersQuota,
			container: known(func(s *metricSource) *uint64 { return s.detail.CPUQuota }),
		},
		{
			name: "container_spec_cpu_shares", help: "CPU share of the container.", kind: gauge, offered: offersQuota,
			container: one(func(s *metricSource) uint64 {
				if shares := s.limits.GetCpuShares(); shares > 0 {
					return uint64(shares) // which a weight of v2 has only roughly
				}
				return orZero(s.detail.CPUShares)
			}),
		},
		{
			name: "container_spec_memory_limit_bytes", help: "Memory limit for the container.", kind: gauge, offered: offersMemory,
			container: one(func(s *metricSource) uint64 { return orZero(s.member.sample.MemoryLimit) }),
		},
		{
			name: "container_spec_memory_reservation_limit_bytes", help: "Memory reservation limit for the container.", kind: gauge,
			offered: offersMemory, container: one(func(s *metricSource) uint64 { return orZero(s.detail.Reservation) }),
		},
		{
			name: "container_spec_memory_swap_limit_bytes", help: "Memory swap limit for the container.", kind: gauge, offered: offersMemory,
			container: one(func(s *metricSource) uint64 {
				swap := s.member.sample.SwapLimit
				if swap == nil || s.swapAlone {
					return orZero(swap)
				}
				return *swap + orZero(s.member.sample.MemoryLimit)
			}),
		},
	}
}

func pressureMetrics() []metric {
	var metrics []metric
	for _, resource := range []struct {
		name, text string
		of         func(s *metricSource) *linux.Pressure
	}{
		{"cpu", "CPU", func(s *metricSource) *linux.Pressure { return s.member.sample.CPUPressure }},
		{"memory", "memory", func(s *metricSource) *linux.Pressure { return s.member.sample.MemoryPressure }},
		{"io", "IO", func(s *metricSource) *linux.Pressure { return s.member.sample.IOPressure }},
	} {
		add := func(kind, help string, line func(p *linux.Pressure) linux.PressureLine) {
			metrics = append(metrics, metric{
				name: "container_pressure_" + resource.name + "_" + kind + "_seconds_total",
				help: help + resource.text + " congestion.", kind: counter,
				offered: func(o linux.CgroupOffers) bool { return o.Pressure },
				container: func(s *metricSource) []metricValue {
					p := resource.of(s)
					if p == nil {
						return nil
					}
					return []metricValue{{value: wholeSeconds(line(p).Total)}}
				},
			})
		}
		add("waiting", "Total time duration tasks in the container have waited due to ", func(p *linux.Pressure) linux.PressureLine { return p.Some })
		add("stalled", "Total time duration no tasks in the container could make progress due to ", func(p *linux.Pressure) linux.PressureLine { return p.Full })
	}
	return metrics
}

func networkMetrics() []metric {
	var metrics []metric
	for _, direction := range []struct {
		name, does string
		of         func(u *network.Usage) *network.Traffic
	}{
		{"receive", "received", func(u *network.Usage) *network.Traffic { return &u.RX }},
		{"transmit", "transmitted", func(u *network.Usage) *network.Traffic { return &u.TX }},
	} {
		add := func(what, help string, pick func(t *network.Traffic) uint64) {
			metrics = append(metrics, metric{
				name: "container_network_" + direction.name + "_" + what + "_total", help: help, kind: counter,
				labels: []string{"interface"},
				nic:    func(u *network.Usage) uint64 { return pick(direction.of(u)) },
			})
		}
		add("bytes", "Cumulative count of bytes "+direction.does+".", func(t *network.Traffic) uint64 { return t.Bytes })
		add("packets", "Cumulative count of packets "+direction.does+".", func(t *network.Traffic) uint64 { return t.Packets })
		add("packets_dropped", "Cumulative count of packets dropped that were to be "+direction.does+".", func(t *network.Traffic) uint64 { return t.Dropped })
		add("errors", "Cumulative count of errors encountered by packets "+direction.does+".", func(t *network.Traffic) uint64 { return t.Errors })
	}
	return metrics
}
