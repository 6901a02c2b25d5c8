package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// admin asks the daemon's admin socket.
func (e *env) admin(path string) (code int, body string) {
	e.Helper()
	socket := filepath.Join(e.node.State, "admin.sock")
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(e.Context(), http.MethodGet, "http://localhost"+path, http.NoBody)
	e.must(err)
	response, err := client.Do(request)
	e.must(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	e.must(err)
	return response.StatusCode, string(text)
}

// TestMetricsOfAPodsLife: what a pod's life did can be seen.
func TestMetricsOfAPodsLife(t *testing.T) {
	e := onShared(t)
	st, err := os.Stat(filepath.Join(e.node.State, "admin.sock"))
	e.must(err)
	equal(e, "mode of the socket", st.Mode().Perm(), 0o600)
	p := e.runPod("")
	e.runs(p, "c", []string{"true"})
	code, text := e.admin("/metrics")
	equal(e, "code", code, http.StatusOK)
	for _, want := range []string{
		`cri_node_calls_total{method="RunPodSandbox"} [1-9]`,
		`cri_node_call_duration_seconds_count{method="CreateContainer"} [1-9]`,
		`cri_node_stage_duration_seconds_count{method="RunPodSandbox",stage="namespaces"} [1-9]`,
		`cri_node_stage_duration_seconds_count{method="RunPodSandbox",stage="files"} [1-9]`,
		`cri_node_stage_duration_seconds_count{method="RunPodSandbox",stage="network"} [1-9]`,
		`cri_node_stage_duration_seconds_count{method="PullImage",stage="layers"} [1-9]`,
		`cri_node_stage_duration_seconds_count{method="CreateContainer",stage="OCI runtime"} [1-9]`,
		`cri_node_stage_duration_seconds_count{method="StartContainer",stage="start"} [1-9]`,
		`cri_node_cni_operations_total{operation="ADD",plugin="bridge"} [1-9]`,
		`cri_node_image_pulls_total{result="success"} [1-9]`,
		`cri_node_image_pull_bytes_total [1-9]`,
		`cri_node_containers{state="exited"} [1-9]`,
		`cri_node_sandboxes{state="ready"} [1-9]`,
		`cri_node_events_dropped_total \d`,
		`cri_node_monitor_restarts_total \d`,
		`go_goroutines \d`,
		`process_open_fds \d`,
	} {
		if !regexp.MustCompile(`(?m)^` + strings.NewReplacer("{", `\{`, "}", `\}`).Replace(want)).MatchString(text) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	// Every metric of ours is documented.
	docs, err := os.ReadFile("../../docs/metrics.md")
	e.must(err)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (cri_node_\w+)`).FindAllStringSubmatch(text, -1) {
		contains(e, "docs/metrics.md", string(docs), "`"+m[1]+"`")
	}
}

func TestHealthz(t *testing.T) {
	e := onShared(t)
	code, text := e.admin("/healthz")
	equal(e, "code", code, http.StatusOK)
	equal(e, "answer", text, "ok")
	_, text = e.admin("/healthz?verbose")
	contains(e, "verbose answer", text, "[+]runtime-service ok", "[+]monitor ok")
	code, _ = e.admin("/debug/pprof/goroutine?debug=1")
	equal(e, "code of the profile", code, http.StatusOK)
}
