package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
)

func withDevices(names ...string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		for _, name := range names {
			c.CDIDevices = append(c.CDIDevices, &runtimeapi.CDIDevice{Name: name})
		}
	}
}

// TestCDI gives containers devices by name: those of files that come, change
// and go while the daemon runs.
func TestCDI(t *testing.T) {
	dirs := []string{t.TempDir(), filepath.Join(t.TempDir(), "made-later")}
	e := ownNode(t, node.Options{Number: 32, Config: fmt.Sprintf("[runtime]\ncdi_dirs = [%q, %q]\n", dirs[0], dirs[1])})
	trace := filepath.Join(t.TempDir(), "trace")
	write := func(dir, name, content string) {
		t.Helper()
		e.must(os.MkdirAll(dir, 0o755))
		e.must(os.WriteFile(filepath.Join(dir, name+".new"), []byte(content), 0o600))
		e.must(os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)))
	}
	device := func(value string) string {
		return fmt.Sprintf(`{"cdiVersion":"0.7.0","kind":"vendor.test/dev","devices":[{"name":"a","containerEdits":{
			"env":["CDI=%s"], "deviceNodes":[{"path":"/dev/cdi","hostPath":"/dev/zero","permissions":"r"}],
			"mounts":[{"hostPath":%q,"containerPath":"/cdi/mount","options":["ro","bind"]}],
			"additionalGids":[4242],
			"hooks":[{"hookName":"createRuntime","path":"/bin/sh","args":["sh","-c","id -u > %s"]}]}},{"name":"b","containerEdits":{"env":["B=b"]}}]}`, value, dirs[0], trace)
	}
	for handler := range shared.bin.Handlers {
		t.Run(handler, func(t *testing.T) {
			e := e.in(t)
			p := e.runPod(handler)
			e.createRefused(p, codes.FailedPrecondition, "vendor.test/dev=a", withDevices("vendor.test/dev=a"))
			e.createRefused(p, codes.InvalidArgument, "config.CDI_devices[0].name", withDevices("nonsense"))
			e.createRefused(p, codes.InvalidArgument, "config.annotations", func(c *runtimeapi.ContainerConfig) { c.Annotations["cdi.k8s.io/x"] = "nonsense" })
			write(dirs[0], "dev.json", device("one"))
			script := "echo $CDI $B $GPU; head -c 3 /dev/cdi | wc -c; ls /cdi/mount; id -G"
			r := e.sh(p, "one", script, withDevices("vendor.test/dev=a", "vendor.test/dev=b"), asUser(1000))
			contains(e, "output", r.stdout, "one b\n3\n", "dev.json\n", "4242")
			if b, err := os.ReadFile(trace); err != nil || strings.TrimSpace(string(b)) != "0" {
				t.Errorf("the device's hook wrote %q, %v", b, err)
			}
			// A later directory overrides; older kubelets use annotations.
			write(dirs[1], "dev.json", device("two"))
			r = e.sh(p, "two", "echo $CDI", func(c *runtimeapi.ContainerConfig) { c.Annotations["cdi.k8s.io/plugin"] = "vendor.test/dev=a" })
			equal(e, "output", r.stdout, "two\n")
			equal(e, "without a device", e.sh(p, "none", "echo $CDI; ls /dev/cdi 2>/dev/null; true").stdout, "\n")
			for _, dir := range dirs {
				e.must(os.Remove(filepath.Join(dir, "dev.json")))
			}
			e.createRefused(p, codes.FailedPrecondition, "vendor.test/dev=a", withDevices("vendor.test/dev=a"))
		})
	}
}

// TestCDIUserNS gives a device to a pod in whose user namespace nobody can make
// a node.
func TestCDIUserNS(t *testing.T) {
	dir := t.TempDir()
	e := ownNode(t, node.Options{Number: 35, Config: fmt.Sprintf("[runtime]\ncdi_dirs = [%q]\n", dir)})
	e.must(os.WriteFile(filepath.Join(dir, "dev.json"), []byte(`{"cdiVersion":"0.6.0","kind":"vendor.test/dev","devices":[{"name":"a","containerEdits":{
		"deviceNodes":[{"path":"/dev/sub/cdi","hostPath":"/dev/zero"}]}}]}`), 0o600))
	for handler := range shared.bin.Handlers {
		if !handlerFeatures(e, handler).GetUserNamespaces() {
			continue // TestUserNamespaceRefused is about those
		}
		p := e.runPod(handler, mapped)
		r := e.sh(p, "c", "head -c 3 /dev/sub/cdi | wc -c", ofPod(p), withDevices("vendor.test/dev=a"))
		equal(e, handler+": bytes", r.stdout+r.stderr, "3\n")
	}
}
