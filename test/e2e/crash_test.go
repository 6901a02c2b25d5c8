package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/crilog"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// life is one pod with one container, moved along call by call.
type life struct {
	*env
	pod       *pod
	container *container
	ip        string
	ignore    bool // the container survives SIGTERM
}

// calls are a pod's life in order.
var calls = []string{"run pod", "create", "start", "stop", "remove", "stop pod", "remove pod"}

func (e *env) newLife(name string, ignore bool) *life {
	config := e.node.Pod(name).Config()
	command := []string{"probe", "trap", "-exit", "42"}
	if ignore {
		command = append(command, "-ignore")
	}
	p := &pod{config: config}
	c := kubelet.Container{Name: "c", Image: shared.image, Command: command}.Config(config)
	mounting(&runtimeapi.Mount{ContainerPath: "/image", Readonly: true, Image: &runtimeapi.ImageSpec{Image: shared.image}})(c)
	return &life{env: e, pod: p, ignore: ignore, container: &container{config: c, log: config.LogDirectory + "/" + c.LogPath}}
}

// call makes one call; it may be made again at any time.
func (l *life) call(ctx context.Context, name string) error {
	client := l.node.Runtime
	switch name {
	case "run pod":
		id, err := client.RunPodSandbox(ctx, l.pod.config, "")
		if err == nil {
			l.pod.id = id
		}
		return err
	case "create":
		id, err := client.CreateContainer(ctx, l.pod.id, l.container.config, l.pod.config)
		if err == nil {
			l.container.id = id
		}
		return err
	case "start":
		return client.StartContainer(ctx, l.container.id)
	case "stop":
		return client.StopContainer(ctx, l.container.id, 1)
	case "remove":
		return client.RemoveContainer(ctx, l.container.id)
	case "stop pod":
		return client.StopPodSandbox(ctx, l.pod.id)
	default:
		return client.RemovePodSandbox(ctx, l.pod.id)
	}
}

// verify checks what must hold after a call has succeeded.
func (l *life) verify(name string) {
	l.Helper()
	switch name {
	case "run pod":
		ip := l.ips(l.pod)[0].String()
		if l.ip != "" && l.ip != ip {
			l.Errorf("address was %s and is %s", l.ip, ip)
		}
		l.ip = ip
	case "create", "start":
		if name == "start" {
			l.logHas(l.container, "ready")
			equal(l.env, "state", l.status(l.container.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
		}
		l.only()
		equal(l.env, "address", l.ips(l.pod)[0].String(), l.ip)
	case "stop":
		want := int32(42)
		if l.ignore {
			want = 137
		}
		r := l.ended(l.container)
		equal(l.env, "exit code", r.status.ExitCode, want)
		if !strings.HasPrefix(r.stdout, "ready\ngot SIGTERM\n") {
			l.Errorf("log is %q", r.stdout)
		}
	}
}

// only checks that there is one pod and one container of this life.
func (l *life) only() {
	l.Helper()
	pods, err := l.node.Runtime.ListPodSandbox(l.Context(), &runtimeapi.PodSandboxFilter{LabelSelector: l.pod.config.Labels})
	l.must(err)
	equal(l.env, "pods", len(pods), 1)
	containers, err := l.node.Runtime.ListContainers(l.Context(), &runtimeapi.ContainerFilter{PodSandboxId: l.pod.id})
	l.must(err)
	equal(l.env, "containers", len(containers), 1)
}

// until makes the calls before the named one; rest makes the ones from it on.
func (l *life) until(name string) {
	l.Helper()
	for _, call := range calls {
		if call == name {
			return
		}
		if err := l.call(l.Context(), call); err != nil {
			l.Fatalf("%s: %v", call, err)
		}
		l.verify(call)
	}
}

func (l *life) rest(from string) {
	l.Helper()
	begun := false
	for _, call := range calls {
		begun = begun || call == from
		if !begun {
			continue
		}
		if err := l.call(l.Context(), call); err != nil {
			l.Fatalf("%s, after the restart: %v", call, err)
		}
		l.verify(call)
	}
}

// canary is a container that must not notice anything.
type canary struct {
	*container
	pod     *pod
	process usage.Process
	ip      string
	seen    int
}

func (e *env) newCanary() *canary {
	e.Helper()
	p := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "canary" })
	c := e.start(p, "c", []string{"probe", "log", "-lines", "0", "-rate", "200", "-stderr", "-until", "/tmp/stop", "-exit", "9"})
	e.logHas(c, "out 00000010")
	return &canary{container: c, pod: p, process: e.process(c), ip: e.ips(p)[0].String()}
}

// process is the one process of a container, found through its cgroup.
func (e *env) process(c *container) usage.Process {
	e.Helper()
	all, err := usage.InCgroup(e.node.CgroupParent)
	e.must(err)
	for _, p := range all {
		if strings.Contains(strings.Join(p.Cgroups, " "), c.id) {
			return p
		}
	}
	e.Fatalf("container %s has no process", c.id)
	return usage.Process{}
}

// checkCanary: the same process, the same address, its log whole and growing.
func (e *env) checkCanary(c *canary) {
	e.Helper()
	if !usage.Alive(c.process) {
		e.Fatal("the canary's process is gone")
	}
	equal(e, "state of the canary", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	equal(e, "address of the canary", e.ips(c.pod)[0].String(), c.ip)
	before := c.seen
	e.eventually(10*time.Second, func() error {
		entries, err := crilog.Read(c.log)
		if err != nil {
			return err
		}
		for stream, prefix := range map[string]string{"stdout": "out ", "stderr": "err "} {
			last, err := crilog.Contiguous(entries, stream, prefix)
			if err != nil {
				return err
			}
			if c.seen = last; last <= before+20 {
				return fmt.Errorf("log has stopped at line %d of %s", last, stream)
			}
		}
		return nil
	})
}

// endCanary lets it exit: the code and the log are exact.
func (e *env) endCanary(c *canary) {
	e.Helper()
	e.tellStop(c.container)
	r := e.ended(c.container)
	equal(e, "exit code of the canary", r.status.ExitCode, 9)
	entries, err := crilog.Read(c.log)
	e.must(err)
	_, err = crilog.Contiguous(entries, "stdout", "out ")
	e.must(err)
}

// crashPoints are the places where the daemon is killed: in a call, held there
// by a gate or after a time, or between two calls.
var crashPoints = []struct {
	name, call string
	gate       string
	after      time.Duration
	between    bool // kill before the call
	late       bool // open the gate only after the restart
	ignore     bool
}{
	{name: "run pod at once", call: "run pod"},
	{name: "run pod 3 ms", call: "run pod", after: 3 * time.Millisecond},
	{name: "run pod 12 ms", call: "run pod", after: 12 * time.Millisecond},
	{name: "run pod 30 ms", call: "run pod", after: 30 * time.Millisecond},
	{name: "in CNI ADD", call: "run pod", gate: "cni-ADD"},
	{name: "in CNI ADD that ends later", call: "run pod", gate: "cni-ADD", late: true},
	{name: "pod runs", call: "create", between: true},
	{name: "create at once", call: "create"},
	{name: "create 5 ms", call: "create", after: 5 * time.Millisecond},
	{name: "create 20 ms", call: "create", after: 20 * time.Millisecond},
	{name: "in runtime create", call: "create", gate: "create"},
	{name: "in runtime create that ends later", call: "create", gate: "create", late: true},
	{name: "created", call: "start", between: true},
	{name: "start at once", call: "start"},
	{name: "start 5 ms", call: "start", after: 5 * time.Millisecond},
	{name: "in runtime start", call: "start", gate: "start"},
	{name: "running", call: "stop", between: true},
	{name: "in the grace of stop", call: "stop", after: 300 * time.Millisecond, ignore: true},
	{name: "stopped", call: "remove", between: true},
	{name: "remove at once", call: "remove"},
	{name: "remove 5 ms", call: "remove", after: 5 * time.Millisecond},
	{name: "in runtime delete", call: "remove", gate: "delete"},
	{name: "removed", call: "stop pod", between: true},
	{name: "in CNI DEL", call: "stop pod", gate: "cni-DEL"},
	{name: "stop pod 5 ms", call: "stop pod", after: 5 * time.Millisecond},
	{name: "pod stopped", call: "remove pod", between: true},
	{name: "remove pod at once", call: "remove pod"},
	{name: "remove pod 3 ms", call: "remove pod", after: 3 * time.Millisecond},
}

// TestDaemonKilled kills the daemon at every point of a pod's life. Whatever ran
// goes on, and the repeated call finishes what was cut off.
func TestDaemonKilled(t *testing.T) {
	e := ownNode(t, node.Options{Number: 5, GateRuntime: true, GateNetwork: true})
	canary := e.newCanary()
	for i, point := range crashPoints {
		ok := t.Run(point.name, func(t *testing.T) {
			e := e.in(t)
			l := e.newLife(fmt.Sprintf("life-%d", i), point.ignore)
			l.until(point.call)
			var gate *node.Gate
			var err error
			if point.gate != "" {
				gate, err = e.node.CloseGate(point.gate)
				e.must(err)
				t.Cleanup(func() { _ = gate.Open() })
			}
			done := make(chan error, 1)
			if !point.between {
				go func() { done <- l.call(t.Context(), point.call) }()
				e.awaitKill(gate, point.after, done)
			} else {
				done <- nil
			}
			e.must(e.node.Kill())
			<-done
			if gate != nil && !point.late {
				e.must(gate.Open())
			}
			e.must(e.node.Restart(t.Context()))
			if gate != nil {
				e.must(gate.Open())
			}
			e.checkCanary(canary)
			if point.call == "start" && !point.between {
				l.startAgain()
			} else {
				l.rest(point.call)
			}
			e.check()
		})
		if !ok && !canaryAlive(canary) {
			t.Fatal("the canary is dead")
		}
	}
	e.endCanary(canary)
}

func canaryAlive(c *canary) bool { return usage.Alive(c.process) }

// awaitKill waits for the moment: the gate reached, or the time over. A call
// that never comes to the gate is waited for.
func (e *env) awaitKill(gate *node.Gate, after time.Duration, done chan error) {
	e.Helper()
	if gate == nil {
		<-time.After(after)
		return
	}
	e.eventually(20*time.Second, func() error {
		select {
		case err := <-done:
			done <- err
			return nil
		default:
		}
		if !gate.Reached() {
			return fmt.Errorf("nobody has come to the gate")
		}
		return nil
	})
}

// startAgain: after a kill in StartContainer the container is CREATED, and can be
// started, or it was started already, which kubelet sees in the status.
func (l *life) startAgain() {
	l.Helper()
	switch s := l.status(l.container.id); s.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		l.rest("start")
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		l.verify("start")
		l.rest("stop")
	default:
		l.Errorf("container is %v (%s, %d): %s", s.State, s.Reason, s.ExitCode, s.Message)
		l.rest("stop pod")
	}
}

// TestExitWhileDaemonIsDown: the monitor keeps the exit code and the log.
func TestExitWhileDaemonIsDown(t *testing.T) {
	e := ownNode(t, node.Options{Number: 6})
	p := e.runPod("")
	c := e.start(p, "c", []string{"probe", "trap", "-exit", "33"})
	e.logHas(c, "ready")
	process := e.process(c)
	e.must(e.node.Kill())
	e.must(unix.Kill(process.PID, unix.SIGTERM))
	e.eventually(10*time.Second, func() error {
		if usage.Alive(process) {
			return fmt.Errorf("container is still alive")
		}
		return nil
	})
	e.must(e.node.Restart(t.Context()))
	r := e.ended(c)
	equal(e, "exit code", r.status.ExitCode, 33)
	equal(e, "log", r.stdout, "ready\ngot SIGTERM\n")
	if took := time.Unix(0, r.status.FinishedAt); time.Since(took) > pace.Limit(time.Minute) || r.status.FinishedAt < r.status.StartedAt {
		t.Errorf("finished at %v", took)
	}
}
