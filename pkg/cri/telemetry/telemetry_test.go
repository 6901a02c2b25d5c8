package telemetry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// scrape asks for the metrics as Prometheus would.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", response.Status, err)
	}
	return string(text)
}

// has wants lines, each with its value, in the exposition.
func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

func TestCounts(t *testing.T) {
	m := New("v1")
	m.Call("Version", "", 2*time.Millisecond)
	m.Call("Version", "Internal", 200*time.Second)
	m.Stream("GetContainerEvents", "Canceled")
	m.Stage("RunPodSandbox", "network", 20*time.Millisecond)
	m.Stages("RunPodSandbox")("network", 30*time.Millisecond)
	m.Pull(nil, time.Second)
	m.Pull(errors.New("no"), time.Second)
	m.CNI("ADD", "bridge", time.Millisecond, nil)
	m.CNI("ADD", "bridge", time.Millisecond, context.DeadlineExceeded)
	has(t, scrape(t, m),
		`cri_node_build_info{version="v1"} 1`,
		`cri_node_calls_total{method="Version"} 2`,
		`cri_node_call_errors_total{code="Internal",method="Version"} 1`,
		`cri_node_call_duration_seconds_bucket{method="Version",le="0.0025"} 1`,
		`cri_node_call_duration_seconds_bucket{method="Version",le="120"} 1`,
		`cri_node_call_duration_seconds_count{method="Version"} 2`,
		`cri_node_calls_total{method="GetContainerEvents"} 1`,
		`cri_node_call_errors_total{code="Canceled",method="GetContainerEvents"} 1`,
		`cri_node_stage_duration_seconds_count{method="RunPodSandbox",stage="network"} 2`,
		`cri_node_stage_duration_seconds_bucket{method="RunPodSandbox",stage="network",le="0.025"} 1`,
		`cri_node_image_pulls_total{result="success"} 1`,
		`cri_node_image_pulls_total{result="failure"} 1`,
		`cri_node_image_pull_duration_seconds_count 1`,
		`cri_node_cni_operations_total{operation="ADD",plugin="bridge"} 2`,
		`cri_node_cni_operation_errors_total{operation="ADD",plugin="bridge"} 1`,
		`cri_node_cni_operation_duration_seconds_count{operation="ADD",plugin="bridge"} 2`,
	)
	if text := scrape(t, m); strings.Contains(text, `cri_node_call_duration_seconds_count{method="GetContainerEvents"}`) {
		t.Error("the life of a stream counts as latency")
	}
}

// What is counted elsewhere is asked for at each scrape; what nobody counts is
// not shown.
func TestObserve(t *testing.T) {
	m := New("")
	dropped := 1.0
	m.Observe(Source{
		Containers:    func() map[string]int { return map[string]int{"running": 3, "exited": 0} },
		Sandboxes:     func() map[string]int { return map[string]int{"ready": 2} },
		EventsDropped: func() float64 { return dropped }, EventSubscribers: func() float64 { return 4 },
		SpansDropped: func() float64 { return 5 },
	})
	has(t, scrape(t, m),
		`cri_node_containers{state="running"} 3`, `cri_node_containers{state="exited"} 0`, `cri_node_sandboxes{state="ready"} 2`,
		`cri_node_events_dropped_total 1`, `cri_node_event_subscribers 4`, `cri_node_spans_dropped_total 5`,
	)
	dropped = 9
	text := scrape(t, m)
	has(t, text, `cri_node_events_dropped_total 9`)
	for _, absent := range []string{"cri_node_image_pull_bytes_total", "cri_node_monitor_restarts_total"} {
		if strings.Contains(text, absent) {
			t.Errorf("%s is shown, and nobody counts it", absent)
		}
	}
}

func TestNoMetrics(t *testing.T) {
	var m *Metrics
	m.Call("Version", "", time.Second)
	m.Stream("GetContainerEvents", "")
	m.Stage("RunPodSandbox", "network", time.Second)
	m.Pull(nil, time.Second)
	m.CNI("ADD", "bridge", time.Second, nil)
	m.Observe(Source{})
	if m.Stages("RunPodSandbox") != nil {
		t.Error("something would be told of stages")
	}
}

func TestManyAtOnce(t *testing.T) {
	m := New("")
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			for range 50 {
				m.Call("Version", "", time.Millisecond)
				m.CNI("DEL", "bridge", time.Millisecond, nil)
			}
		})
	}
	wait.Wait()
	has(t, scrape(t, m), `cri_node_calls_total{method="Version"} 1000`, `cri_node_cni_operations_total{operation="DEL",plugin="bridge"} 1000`)
}
