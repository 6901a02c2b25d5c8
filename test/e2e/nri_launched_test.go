package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// launched is the plugin that this test program is when a daemon starts it.
type launched struct{ config string }

// runLaunched is that plugin until its daemon goes away.
func runLaunched(ctx context.Context) int {
	s, err := stub.New(&launched{})
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Configure implements stub.ConfigureInterface.
func (l *launched) Configure(_ context.Context, config, runtime, _ string) (api.EventMask, error) {
	l.config = runtime + " says " + config
	return 0, nil
}

// CreateContainer implements stub.CreateContainerInterface.
func (l *launched) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("LAUNCHED", l.config)
	return a, nil, nil
}

// TestNRILaunched: a plugin in the plugin directory is started with the daemon,
// gets its configuration, and ends with the daemon, however that ends.
func TestNRILaunched(t *testing.T) {
	e := ownNode(t, node.Options{Number: 46})
	e.must(e.node.Kill())
	dir := filepath.Join(e.node.Dir, "nri")
	self, err := os.Executable()
	e.must(err)
	e.must(os.MkdirAll(dir, 0o755))
	e.must(os.Symlink(self, filepath.Join(dir, "10-launched")))
	e.must(os.WriteFile(filepath.Join(dir, "10-launched.conf"), []byte("hello"), 0o644))
	for i, end := range []func() error{e.node.Kill, func() error { return e.node.Stop(20 * time.Second) }} {
		e.must(e.node.Restart(t.Context()))
		p := e.runPodConfig("", e.node.Pod(fmt.Sprintf("launched-%d", i)).Config())
		contains(e, "environment", e.sh(p, "c", "env").stdout, "LAUNCHED=cri-node says hello\n")
		running := plugins(e, dir)
		equal(e, "plugins", len(running), 1)
		e.must(end())
		e.eventually(10*time.Second, func() error {
			for _, process := range running {
				if usage.Alive(process) {
					return fmt.Errorf("plugin %d is still alive", process.PID)
				}
			}
			return nil
		})
	}
	e.must(os.RemoveAll(dir))
	e.must(e.node.Restart(t.Context()))
}

// plugins finds the processes started from a directory.
func plugins(e *env, dir string) []usage.Process {
	e.Helper()
	all, err := usage.Processes()
	e.must(err)
	var found []usage.Process
	for _, p := range all {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && filepath.Dir(string(line[:max(0, len(line)-1)])) == dir {
			found = append(found, p)
		}
	}
	return found
}

// TestNRIValidator refuses what is configured to be.
func TestNRIValidator(t *testing.T) {
	e := ownNode(t, node.Options{Number: 47, Config: "[nri.validator]\nenable = true\nreject_hooks = true\n"})
	hooks := false
	e.plugin("10", "hooks", func(p *nriPlugin) {
		p.adjust = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
			a := &api.ContainerAdjustment{}
			a.AddEnv("FINE", "yes")
			if hooks {
				a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/true"}}})
			}
			return a, nil
		}
	})
	p := e.runPod("")
	contains(e, "environment", e.sh(p, "c", "env").stdout, "FINE=yes\n")
	hooks = true
	config := kubelet.Container{Name: "hooked", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	if id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config); err == nil {
		t.Errorf("created %s", id)
	} else {
		contains(e, "error", err.Error(), "hook")
	}
}
