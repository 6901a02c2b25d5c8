package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const namespace = "cri_node"

// Metrics of one daemon.
type Metrics struct {
	registry *prometheus.Registry

	calls    *prometheus.CounterVec
	failures *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	stages   *prometheus.HistogramVec

	pulls        *prometheus.CounterVec
	pullDuration prometheus.Histogram

	cni         *prometheus.CounterVec
	cniFailures *prometheus.CounterVec
	cniDuration *prometheus.HistogramVec
}

// Buckets in seconds. A call that reads takes well under a millisecond, one
// that starts something milliseconds, and what takes minutes hangs.
var (
	callBuckets  = []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 120}
	stageBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 120}
	pullBuckets  = []float64{.05, .25, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640}
)

// New returns metrics that are all zero.
func New(version string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls:    counter("calls_total", "CRI calls that have ended.", "method"),
		failures: counter("call_errors_total", "CRI calls that have ended with an error.", "method", "code"),
		latency:  histogram("call_duration_seconds", "Time that CRI calls took, streams left out.", callBuckets, "method"),
		stages:   histogram("stage_duration_seconds", "Time that the stages of CRI calls took.", stageBuckets, "method", "stage"),
		pulls:    counter("image_pulls_total", "Image pulls that have ended.", "result"),
		pullDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "image_pull_duration_seconds", Help: "Time that successful image pulls took.", Buckets: pullBuckets,
		}),
		cni:         counter("cni_operations_total", "Runs of CNI plugins that have ended.", "operation", "plugin"),
		cniFailures: counter("cni_operation_errors_total", "Runs of CNI plugins that have failed.", "operation", "plugin"),
		cniDuration: histogram("cni_operation_duration_seconds", "Time that runs of CNI plugins took.", stageBuckets, "operation", "plugin"),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.calls, m.failures, m.latency, m.stages, m.pulls, m.pullDuration,
		m.cni, m.cniFailures, m.cniDuration, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Call notes a unary call; code is "" for a success.
func (m *Metrics) Call(method, code string, took time.Duration) {
	if m == nil {
		return
	}
	m.latency.WithLabelValues(method).Observe(took.Seconds())
	m.Stream(method, code)
}

// Stream notes the end of a call that answered with a stream.
func (m *Metrics) Stream(method, code string) {
	if m == nil {
		return
	}
	m.calls.WithLabelValues(method).Inc()
	if code != "" {
		m.failures.WithLabelValues(method, code).Inc()
	}
}

// Stage notes a part of a call.
func (m *Metrics) Stage(method, stage string, took time.Duration) {
	if m != nil {
		m.stages.WithLabelValues(method, stage).Observe(took.Seconds())
	}
}

// Stages returns what notes the parts of calls of a method, nil where nothing is
// measured.
func (m *Metrics) Stages(method string) func(stage string, took time.Duration) {
	if m == nil {
		return nil
	}
	return func(stage string, took time.Duration) { m.Stage(method, stage, took) }
}

// Pull notes the end of an image pull.
func (m *Metrics) Pull(err error, took time.Duration) {
	switch {
	case m == nil:
	case err != nil:
		m.pulls.WithLabelValues("failure").Inc()
	default:
		m.pulls.WithLabelValues("success").Inc()
		m.pullDuration.Observe(took.Seconds())
	}
}

// CNI notes a run of a CNI plugin.
func (m *Metrics) CNI(operation, plugin string, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.cni.WithLabelValues(operation, plugin).Inc()
	m.cniDuration.WithLabelValues(operation, plugin).Observe(took.Seconds())
	if err != nil {
		m.cniFailures.WithLabelValues(operation, plugin).Inc()
	}
}

// Source tells of what is counted elsewhere, when somebody asks.
type Source struct {
	// Containers and Sandboxes return how many there are in each state.
	Containers, Sandboxes func() map[string]int
	// EventsDropped, EventSubscribers, PulledBytes, MonitorRestarts and
	// SpansDropped are totals and numbers of now.
	EventsDropped, EventSubscribers, PulledBytes, MonitorRestarts, SpansDropped func() float64
}

// Observe shows what a source tells. It may be called once.
func (m *Metrics) Observe(s Source) {
	if m == nil {
		return
	}
	byState := func(name, help string, count func() map[string]int) prometheus.Collector {
		return states{prometheus.NewDesc(namespace+"_"+name, help, []string{"state"}, nil), count}
	}
	m.registry.MustRegister(
		byState("containers", "Containers by state.", s.Containers),
		byState("sandboxes", "Pod sandboxes by state.", s.Sandboxes),
	)
	for name, c := range map[string]struct {
		help string
		f    func() float64
	}{
		"events_dropped_total":   {"Container events that a subscriber should have had and did not get.", s.EventsDropped},
		"image_pull_bytes_total": {"Bytes received from registries.", s.PulledBytes},
		"monitor_restarts_total": {"Times that the monitor was found dead and started again.", s.MonitorRestarts},
		"spans_dropped_total":    {"Spans of traced calls that the collector did not get.", s.SpansDropped},
	} {
		if c.f != nil {
			m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: c.help}, c.f))
		}
	}
	if s.EventSubscribers != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "event_subscribers", Help: "Subscribers of container events.",
		}, s.EventSubscribers))
	}
}

// states collects a gauge for each state.
type states struct {
	desc  *prometheus.Desc
	count func() map[string]int
}

// Describe implements prometheus.Collector.
func (s states) Describe(ch chan<- *prometheus.Desc) { ch <- s.desc }

// Collect implements prometheus.Collector.
func (s states) Collect(ch chan<- prometheus.Metric) {
	for state, n := range s.count() {
		ch <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, float64(n), state)
	}
}
