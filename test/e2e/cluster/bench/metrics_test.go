package main

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const before = `# TYPE kubelet_pod_start_sli_duration_seconds histogram
kubelet_pod_start_sli_duration_seconds_bucket{le="0.5"} 1
kubelet_pod_start_sli_duration_seconds_bucket{le="1"} 1
kubelet_pod_start_sli_duration_seconds_bucket{le="+Inf"} 1
kubelet_pod_start_sli_duration_seconds_sum 0.4
kubelet_pod_start_sli_duration_seconds_count 1
# TYPE kubelet_runtime_operations_duration_seconds histogram
kubelet_runtime_operations_duration_seconds_bucket{operation_type="status",le="0.005"} 3
kubelet_runtime_operations_duration_seconds_bucket{operation_type="status",le="+Inf"} 3
kubelet_runtime_operations_duration_seconds_sum{operation_type="status"} 0.006
kubelet_runtime_operations_duration_seconds_count{operation_type="status"} 3
`

const after = `# TYPE kubelet_pod_start_sli_duration_seconds histogram
kubelet_pod_start_sli_duration_seconds_bucket{le="0.5"} 3
kubelet_pod_start_sli_duration_seconds_bucket{le="1"} 5
kubelet_pod_start_sli_duration_seconds_bucket{le="+Inf"} 5
kubelet_pod_start_sli_duration_seconds_sum 2.8
kubelet_pod_start_sli_duration_seconds_count 5
# TYPE kubelet_runtime_operations_duration_seconds histogram
kubelet_runtime_operations_duration_seconds_bucket{operation_type="start_container",le="0.005"} 0
kubelet_runtime_operations_duration_seconds_bucket{operation_type="start_container",le="+Inf"} 2
kubelet_runtime_operations_duration_seconds_sum{operation_type="start_container"} 0.5
kubelet_runtime_operations_duration_seconds_count{operation_type="start_container"} 2
kubelet_runtime_operations_duration_seconds_bucket{operation_type="status",le="0.005"} 3
kubelet_runtime_operations_duration_seconds_bucket{operation_type="status",le="+Inf"} 3
kubelet_runtime_operations_duration_seconds_sum{operation_type="status"} 0.006
kubelet_runtime_operations_duration_seconds_count{operation_type="status"} 3
`

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestSince(t *testing.T) {
	old, err := parseMetrics([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	now, err := parseMetrics([]byte(after))
	if err != nil {
		t.Fatal(err)
	}
	diff := now.since(old)
	sli := diff[metricSLI]
	if sli.Count != 4 || !near(sli.mean(), 0.6) {
		t.Errorf("%d values of mean %v, want 4 of 0.6", sli.Count, sli.mean())
	}
	// Two of the four are in each of the buckets.
	for q, want := range map[float64]float64{0.25: 0.25, 0.5: 0.5, 0.75: 0.75, 1: 1} {
		if got := sli.quantile(q); !near(got, want) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	// What is beyond the last bound is told as that.
	if got := diff[operation("start_container")].quantile(0.5); !near(got, 0.005) {
		t.Errorf("quantile beyond the buckets is %v, want 0.005", got)
	}
	if got := diff[operation("status")]; got.Count != 0 || !math.IsNaN(got.mean()) || !math.IsNaN(got.quantile(0.5)) {
		t.Errorf("an operation that was not called has %+v", got)
	}
	if got := diff.names(); !slices.Equal(got, []string{"start_container"}) {
		t.Errorf("operations %v", got)
	}
}

func TestParseMetricsBad(t *testing.T) {
	if _, err := parseMetrics([]byte("no metrics {")); err == nil {
		t.Error("no error")
	}
}

func TestStartupsLogged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.log")
	const log = `I1124 04:02:34.26 70 pod_startup_latency_tracker.go:144] "Observed pod startup duration" pod="default/one-0" podStartSLOduration=2.5 podStartE2EDuration="2.5s"
I1124 04:02:34.27 70 kubelet.go:2062] "SyncPod enter" pod="default/one-1"
I1124 04:02:36.43 70 pod_startup_latency_tracker.go:144] "Observed pod startup duration" pod="default/one-1" podStartSLOduration=1.25e+00 podStartE2EDuration="1.25s"
I1124 04:02:36.44 70 pod_startup_latency_tracker.go:144] "Observed pod startup duration" pod="default/many-1" podStartSLOduration=9 podStartE2EDuration="9s"
I1124 04:02:36.45 70 pod_startup_latency_tracker.go:144] "Observed pod startup duration" pod="kube-system/one-1" podStartSLOduration=7 podStartE2EDuration="7s"
`
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := startupsLogged(path, "one-")
	if err != nil || !slices.Equal(got, []float64{1.25, 2.5}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMeterRead(t *testing.T) {
	for _, test := range []struct {
		text string
		unit time.Duration
		want time.Duration
	}{
		{"1500000\n", time.Nanosecond, 1500 * time.Microsecond},
		{"usage_usec 2500\nuser_usec 2000\n", time.Microsecond, 2500 * time.Microsecond},
	} {
		m := meter{file: filepath.Join(t.TempDir(), "usage"), unit: test.unit}
		if err := os.WriteFile(m.file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := m.read(); err != nil || got != test.want {
			t.Errorf("%q is %v, %v, want %v", test.text, got, err, test.want)
		}
	}
}

func TestCalmest(t *testing.T) {
	round := func(name string, number int, seconds float64) *result {
		up := snapshot{}
		for _, call := range starting {
			up[operation(call)] = histogram{Count: 2, Sum: 2 * seconds}
		}
		return &result{Name: name, Round: number, One: part{Up: up}}
	}
	best := calmest([]string{"a", "b"}, []*result{round("a", 1, 2), round("b", 1, 1), round("a", 2, 1.5), round("b", 2, 3)})
	if len(best) != 2 || best[0].Round != 2 || best[1].Round != 1 {
		t.Errorf("%+v", best)
	}
}
