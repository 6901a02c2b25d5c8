package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// admin asks the daemon's admin socket.
func (e *env) admin(path string) (code int, body string) {
	e.Helper()
	socket := filepath.Join(e.node.State, "admin.sock")
	client := &http.Client{Timeout: pace.Limit(20 * time.Second), Transport: &http.Transport{
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

// TestLateCallsNameTheirStage: a call whose time is over says what it was at, and
// how long what came before took.
func TestLateCallsNameTheirStage(t *testing.T) {
	e := ownNode(t, node.Options{Number: 48, GateNetwork: true})
	config := e.node.Pod("late").Config()
	offset := e.node.LogSize()
	gate, err := e.node.CloseGate("cni-ADD")
	e.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	late := make(chan error, 1)
	go func() {
		_, err := e.node.Raw.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		late <- err
	}()
	await := func(gate *node.Gate) {
		e.eventually(30*time.Second, func() error {
			if !gate.Reached() {
				return errors.New("nobody has come to the gate")
			}
			return nil
		})
	}
	await(gate)
	cancel()
	<-late
	e.logSays(offset, `\(cgroup \S+, namespaces \S+, files \S+, in network for \S+\)`)
	e.must(gate.Open())
	p := e.runPodConfig("", config)

	gate, err = e.node.CloseGate("cni-DEL")
	e.must(err)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_, err := e.node.Raw.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
		late <- err
	}()
	await(gate)
	cancel()
	<-late
	e.logSays(offset, `\(containers \S+, in network for \S+\)`)
	e.must(gate.Open())

	again := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-again" })
	c := e.start(again, "c", []string{"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"})
	e.logHas(c, "ready")
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = e.node.Raw.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: 1000})
	equal(e, "code", status.Code(err), codes.DeadlineExceeded)
	e.logSays(offset, `\(in stop signal for \S+\)`)
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
