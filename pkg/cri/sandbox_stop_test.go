package cri

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

type noNetwork struct{}

func (noNetwork) Attach(context.Context, network.Attachment) (network.Result, error) {
	return network.Result{}, nil
}
func (noNetwork) Detach(context.Context, string, string) error { return nil }
func (noNetwork) GC(context.Context, []string) error           { return nil }

// A pod whose record is broken can be stopped and removed, also by the
// beginning of its id, which must not pass for a pod that is not there.
func TestRemovePodSandboxByPrefix(t *testing.T) {
	dir := t.TempDir()
	ids := []string{strings.Repeat("a", 64), "ab" + strings.Repeat("0", 62)}
	for _, id := range ids {
		if err := os.MkdirAll(filepath.Join(dir, "root/sandboxes", id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "root/sandboxes", id, "record.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sandboxes := sandbox.NewManager(sandbox.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Network: noNetwork{}})
	if err := sandboxes.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &Server{config: Config{Sandboxes: sandboxes, Containers: runtime.NewManager(runtime.Config{})}, stats: stats.New(nil)}
	if _, err := s.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "a"}); err == nil {
		t.Error("two pods begin with a")
	}
	for _, id := range []string{"ab", ids[0], "no such pod"} {
		if _, err := s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
		if _, err := s.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
	if left := sandboxes.List(); len(left) > 0 {
		t.Fatalf("%d pods are left", len(left))
	}
}
