package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/crilog"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// env is a test's hold on a node. All helpers fail the test.
type env struct {
	*testing.T
	node *node.Node
	// before is what an earlier test has left, and been told off for.
	before []string
}

// onShared uses the shared node and checks it for leaks after the test.
func onShared(t *testing.T) *env {
	t.Helper()
	return onNode(t, shared.node)
}

// onNode uses a node and checks it for leaks after the test.
func onNode(t *testing.T, n *node.Node) *env {
	t.Helper()
	e := &env{T: t, node: n}
	e.before, _ = e.findings() // a node that does not answer fails the test anyway
	offset := n.LogSize()
	t.Cleanup(func() {
		e.check()
		if t.Failed() {
			t.Logf("daemon log of this test:\n%s", lastLines(n.LogFrom(offset), 40))
		}
	})
	return e
}

// ownNode starts a node for one test, which ends with the full leak check.
func ownNode(t *testing.T, o node.Options) *env {
	t.Helper()
	n, err := shared.startNode(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	e := &env{T: t, node: n}
	baseline, err := invariant.Collect(n.InvariantConfig())
	e.must(err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		e.check()
		e.removeAll(ctx)
		e.residue(baseline)
		if err := n.Close(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("daemon log:\n%s", n.LogTail(60))
		}
		if err := n.Purge(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

func lastLines(s string, n int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// in is the same node in a subtest.
func (e *env) in(t *testing.T) *env { return &env{t, e.node, e.before} }

// eachHandler runs a test with every OCI runtime the machine has.
func eachHandler(t *testing.T, test func(e *env, handler string)) {
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			if _, ok := shared.bin.Handlers[name]; !ok {
				lacking(t, name, name+" is not on this machine")
			}
			test(onShared(t), name)
		})
	}
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// removeAll removes every pod of the node.
func (e *env) removeAll(ctx context.Context) {
	e.Helper()
	pods, err := e.node.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		e.Errorf("list pods: %v", err)
	}
	for _, p := range pods {
		if err := errors.Join(e.node.Runtime.StopPodSandbox(ctx, p.Id), e.node.Runtime.RemovePodSandbox(ctx, p.Id)); err != nil {
			e.Errorf("remove pod %s: %v", p.Metadata.Name, err)
		}
	}
}

// pod is a running pod of a test.
type pod struct {
	id     string
	config *runtimeapi.PodSandboxConfig
}

// runPod runs a pod as kubelet would; it is removed when the test ends.
func (e *env) runPod(handler string, edits ...func(*runtimeapi.PodSandboxConfig)) *pod {
	e.Helper()
	config := e.node.Pod(podName(e.T)).Config()
	for _, edit := range edits {
		edit(config)
	}
	return e.runPodConfig(handler, config)
}

func (e *env) runPodConfig(handler string, config *runtimeapi.PodSandboxConfig) *pod {
	e.Helper()
	id, err := e.node.Runtime.RunPodSandbox(e.Context(), config, handler)
	if err != nil {
		e.Fatalf("run pod: %v", err)
	}
	p := &pod{id, config}
	e.Cleanup(func() { e.removePod(p) })
	return p
}

// removePod is what kubelet does at the end of a pod.
func (e *env) removePod(p *pod) {
	e.Helper()
	ctx := context.WithoutCancel(e.Context())
	if err := e.node.Runtime.StopPodSandbox(ctx, p.id); err != nil {
		e.Errorf("stop pod: %v", err)
	}
	if err := e.node.Runtime.RemovePodSandbox(ctx, p.id); err != nil {
		e.Errorf("remove pod: %v", err)
	}
}

// podName makes a name kubelet could send out of a test's name.
func podName(t *testing.T) string {
	name := strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()))
	return strings.Trim(name[max(0, len(name)-50):], "-")
}

// container is a container of a test.
type container struct {
	id     string
	config *runtimeapi.ContainerConfig
	log    string
}

// create creates a container as kubelet would.
func (e *env) create(p *pod, name string, command []string, edits ...func(*runtimeapi.ContainerConfig)) *container {
	e.Helper()
	config := kubelet.Container{Name: name, Image: shared.image, Command: command}.Config(p.config)
	for _, edit := range edits {
		edit(config)
	}
	id, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config)
	if err != nil {
		e.Fatalf("create container %s: %v", name, err)
	}
	return &container{id, config, p.config.LogDirectory + "/" + config.LogPath}
}

// start creates and starts a container.
func (e *env) start(p *pod, name string, command []string, edits ...func(*runtimeapi.ContainerConfig)) *container {
	e.Helper()
	c := e.create(p, name, command, edits...)
	if err := e.node.Runtime.StartContainer(e.Context(), c.id); err != nil {
		e.Fatalf("start container %s: %v", name, err)
	}
	return c
}

// result is how a container ended and what it wrote.
type result struct {
	status         *runtimeapi.ContainerStatus
	stdout, stderr string
}

// runs starts a container, waits for its end and reads its log once, which must
// be complete at that moment.
func (e *env) runs(p *pod, name string, command []string, edits ...func(*runtimeapi.ContainerConfig)) result {
	e.Helper()
	return e.ended(e.start(p, name, command, edits...))
}

// sh runs a shell script in a container of its own.
func (e *env) sh(p *pod, name, script string, edits ...func(*runtimeapi.ContainerConfig)) result {
	e.Helper()
	return e.runs(p, name, []string{"sh", "-c", script}, edits...)
}

// ended waits for the end of a container.
func (e *env) ended(c *container) result {
	e.Helper()
	status := e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 30*time.Second)
	entries, err := crilog.Read(c.log)
	if err != nil {
		e.Fatalf("log of exited container: %v", err)
	}
	return result{status, crilog.Text(entries, "stdout"), crilog.Text(entries, "stderr")}
}

// status asks for a container's status.
func (e *env) status(id string) *runtimeapi.ContainerStatus {
	e.Helper()
	r, err := e.node.Runtime.ContainerStatus(e.Context(), id, false)
	if err != nil {
		e.Fatalf("status of container: %v", err)
	}
	e.node.Watch.See(seen(r.Status))
	return r.Status
}

// await polls until a container is in a state.
func (e *env) await(id string, state runtimeapi.ContainerState, limit time.Duration) *runtimeapi.ContainerStatus {
	e.Helper()
	var s *runtimeapi.ContainerStatus
	e.eventually(limit, func() error {
		s = e.status(id)
		if s.State != state {
			return fmt.Errorf("container is %v, not %v", s.State, state)
		}
		return nil
	})
	return s
}

// eventually polls until there is no error; the limit is that of a machine of
// usual speed.
func (e *env) eventually(limit time.Duration, try func() error) {
	e.Helper()
	limit = pace.Limit(limit)
	ticker := time.NewTicker(pace.Limit(5 * time.Millisecond))
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); ; <-ticker.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			e.Fatalf("after %v: %v", limit, err)
		}
	}
}

// logSays waits until the daemon's log since an offset matches an expression.
func (e *env) logSays(offset int64, expression string) {
	e.Helper()
	pattern := regexp.MustCompile(expression)
	e.eventually(20*time.Second, func() error {
		if !pattern.MatchString(e.node.LogFrom(offset)) {
			return fmt.Errorf("the daemon's log has nothing like %s", expression)
		}
		return nil
	})
}

// logHas waits until a container's log holds the text.
func (e *env) logHas(c *container, text string) {
	e.Helper()
	e.eventually(20*time.Second, func() error {
		entries, err := crilog.Read(c.log)
		if err == nil && !strings.Contains(crilog.Text(entries, ""), text) {
			err = fmt.Errorf("log has no %q", text)
		}
		return err
	})
}

// exec runs a command in a container; it must succeed.
func (e *env) exec(id string, command ...string) string {
	e.Helper()
	stdout, stderr, err := e.node.Runtime.ExecSync(e.Context(), id, command, pace.Limit(20*time.Second))
	if err != nil {
		e.Fatalf("exec %q: %v: %s", command, err, stderr)
	}
	return string(stdout)
}

// equal compares and names what was compared.
func equal[V comparable](e *env, what string, got, want V) {
	e.Helper()
	if got != want {
		e.Errorf("%s is %v, want %v", what, got, want)
	}
}

// sameSet compares lists without regard to order.
func sameSet(e *env, what string, got []string, want ...string) {
	e.Helper()
	if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		e.Errorf("%s is %q, want %q", what, got, want)
	}
}

// contains fails if the text lacks a part.
func contains(e *env, what, text string, parts ...string) {
	e.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			e.Errorf("%s lacks %q: %q", what, p, text)
		}
	}
}
