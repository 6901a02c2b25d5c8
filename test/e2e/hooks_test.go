package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
)

// TestHooks runs the hooks of a directory at every stage, for the containers
// that their conditions choose.
func TestHooks(t *testing.T) {
	dir, trace := t.TempDir(), t.TempDir()
	e := ownNode(t, node.Options{Number: 33, Config: fmt.Sprintf("[runtime]\nhooks_dirs = [%q]\n", dir)})
	write := func(name, when string, stages ...string) {
		t.Helper()
		content := fmt.Sprintf(`{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","cat > %s/%s"],"timeout":10},"when":%s,"stages":["%s"]}`,
			trace, name, when, strings.Join(stages, `","`))
		e.must(os.WriteFile(filepath.Join(dir, name+".json"), []byte(content), 0o600))
	}
	for _, s := range []string{"prestart", "createRuntime", "poststart", "poststop"} {
		write("always-"+s, `{"always":true}`, s)
	}
	write("command", `{"commands":["sleep$"]}`, "createRuntime")
	write("annotation", `{"annotations":{"^trace\\.test$":"^yes$"}}`, "createRuntime")
	write("mounts", `{"hasBindMounts":true}`, "createRuntime")
	seen := func() []string {
		entries, err := os.ReadDir(trace)
		e.must(err)
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
			e.must(os.Remove(filepath.Join(trace, entry.Name())))
		}
		slices.Sort(names)
		return names
	}
	for handler := range shared.bin.Handlers {
		t.Run(handler, func(t *testing.T) {
			e := e.in(t)
			p := e.runPod(handler)
			seen() // none of the pod's making, and none of another test
			c := e.create(p, "first", []string{"/bin/sleep", "1000"}, func(c *runtimeapi.ContainerConfig) { c.Annotations["trace.test"] = "yes" })
			// runc runs poststart hooks at create already.
			early := seen()
			e.must(e.node.Runtime.StartContainer(t.Context(), c.id))
			e.eventually(10*time.Second, func() error {
				early = append(early, seen()...)
				slices.Sort(early)
				if got := strings.Join(early, " "); got != "always-createRuntime always-poststart always-prestart annotation command" {
					return fmt.Errorf("hooks of create and start are %q", got)
				}
				return nil
			})
			e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
			equal(e, "hooks of removal", strings.Join(seen(), " "), "always-poststop")
			e.create(p, "second", []string{"true"}, mounting(&runtimeapi.Mount{HostPath: trace, ContainerPath: "/mnt"}))
			ran := slices.DeleteFunc(seen(), func(name string) bool { return name == "always-poststart" })
			equal(e, "hooks with a mount", strings.Join(ran, " "), "always-createRuntime always-prestart mounts")
			// A file that is no good is better noticed than skipped.
			broken := filepath.Join(dir, "broken.json")
			e.must(os.WriteFile(broken, []byte("{"), 0o600))
			e.createRefused(p, codes.FailedPrecondition, broken)
			e.must(os.WriteFile(broken, []byte(`{"version":"1.0.0","hook":{"path":"/bin/false"},"when":{"always":true},"stages":["createRuntime"]}`), 0o600))
			e.createRefused(p, codes.Unknown, "hook")
			e.must(os.Remove(broken))
			e.create(p, "third", []string{"true"})
		})
	}
}
