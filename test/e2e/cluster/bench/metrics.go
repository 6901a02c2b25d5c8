package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// The metrics that are read, all of them histograms.
const (
	metricSLI        = "kubelet_pod_start_sli_duration_seconds"
	metricStart      = "kubelet_pod_start_duration_seconds"
	metricSandbox    = "kubelet_run_podsandbox_duration_seconds"
	metricOperations = "kubelet_runtime_operations_duration_seconds"
)

// bucket is one of a histogram: how many values there are up to a bound.
type bucket struct {
	bound float64
	count uint64
}

// histogram is one of Prometheus.
type histogram struct {
	Count   uint64
	Sum     float64
	buckets []bucket
}

// snapshot has histograms by name, those of operations by that and the operation.
type snapshot map[string]histogram

// scrape reads kubelet's metrics, through the API server.
func (a *arena) scrape(ctx context.Context) (snapshot, error) {
	data, err := a.client.CoreV1().RESTClient().Get().Resource("nodes").Name(nodeName).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read metrics of kubelet: %w", err)
	}
	return parseMetrics(data)
}

func parseMetrics(data []byte) (snapshot, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("parse metrics: %w", err)
	}
	s := snapshot{}
	for _, name := range []string{metricSLI, metricStart, metricSandbox, metricOperations} {
		for _, m := range families[name].GetMetric() {
			key := name
			if name == metricOperations {
				key = operation(label(m, "operation_type"))
			}
			h := histogram{Count: m.GetHistogram().GetSampleCount(), Sum: m.GetHistogram().GetSampleSum()}
			for _, b := range m.GetHistogram().GetBucket() {
				h.buckets = append(h.buckets, bucket{bound: b.GetUpperBound(), count: b.GetCumulativeCount()})
			}
			s[key] = h
		}
	}
	return s, nil
}

// operation is the key of an operation's histogram.
func operation(name string) string { return metricOperations + "/" + name }

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// since is what came after another snapshot.
func (s snapshot) since(before snapshot) snapshot {
	diff := snapshot{}
	for key, h := range s {
		old := before[key]
		d := histogram{Count: h.Count - old.Count, Sum: h.Sum - old.Sum, buckets: slices.Clone(h.buckets)}
		for i := range d.buckets {
			if i < len(old.buckets) {
				d.buckets[i].count -= old.buckets[i].count
			}
		}
		diff[key] = d
	}
	return diff
}

// mean is that of the values, NaN where there are none.
func (h histogram) mean() float64 { return h.Sum / float64(h.Count) }

// quantile is estimated as Prometheus does: evenly within a bucket.
func (h histogram) quantile(q float64) float64 {
	if h.Count == 0 {
		return math.NaN()
	}
	rank := q * float64(h.Count)
	var low float64
	var below uint64
	for _, b := range h.buckets {
		if float64(b.count) >= rank {
			if math.IsInf(b.bound, 1) {
				return low
			}
			return low + (b.bound-low)*(rank-float64(below))/float64(b.count-below)
		}
		low, below = b.bound, b.count
	}
	return low
}

// names are the operations of which there were any, but for those named.
func (s snapshot) names(but ...string) []string {
	var all []string
	for key, h := range s {
		name, ok := strings.CutPrefix(key, metricOperations+"/")
		if ok && h.Count > 0 && !slices.Contains(but, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}
