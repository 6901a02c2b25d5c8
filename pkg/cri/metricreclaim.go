package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// reclaimMetrics are what version 2 of cgroups alone tells.
func reclaimMetrics() []metric {
	value := func(kind runtimeapi.MetricType, name, help string, f func(s *metricSource, r *linux.Reclaim) uint64) metric {
		return metric{name: name, help: help, kind: kind, offered: func(o linux.CgroupOffers) bool { return o.Reclaim }, container: known(func(s *metricSource) *uint64 {
			if s.detail.Reclaim == nil {
				return nil
			}
			v := f(s, s.detail.Reclaim)
			return &v
		})}
	}
	return []metric{
		value(counter, "container_memory_events_high_total", "Cumulative count of memory.high throttle events for the container",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.HighHits }),
		value(counter, "container_memory_events_max_total", "Cumulative count of memory.max limit hit events for the container",
			func(s *metricSource, _ *linux.Reclaim) uint64 { return s.detail.LimitHits }),
		value(gauge, "container_memory_file_dirty_bytes", "Number of bytes of file cache that has been modified but not yet written back to disk.",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.Dirty }),
		value(gauge, "container_memory_file_writeback_bytes", "Number of bytes of file cache that is currently being written back to disk.",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.Writeback }),
		value(counter, "container_memory_pgscan_total", "Cumulative number of pages scanned by the page reclaim algorithm.",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.Scanned }),
		value(counter, "container_memory_pgsteal_total", "Cumulative number of pages reclaimed by the page reclaim algorithm.",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.Stolen }),
		value(counter, "container_memory_workingset_refault_file_total", "Cumulative number of refaults of previously evicted file pages.",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.RefaultsFile }),
		value(counter, "container_memory_workingset_refault_anon_total", "Cumulative number of refaults of previously evicted anonymous pages.",
			func(_ *metricSource, r *linux.Reclaim) uint64 { return r.RefaultsAnon }),
	}
}
