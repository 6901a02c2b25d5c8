package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// forever runs until it is told to end, and then ends at once.
var forever = []string{"probe", "trap", "-exit", "7"}

// TestPeopleLifecycle goes through the life of a container as docker's is.
func TestPeopleLifecycle(t *testing.T) {
	p := onPeople(t)
	id := p.make(request(forever, named("life")))
	equal(p.env, "state", p.get("life").GetState(), "created")
	p.begin("life")
	c := p.becomes(id, "running")
	if c.Kubernetes || c.Pid == 0 || len(c.Ips) == 0 || !strings.Contains(c.Image, "busybox") || !slices.Equal(c.Command, forever) {
		t.Errorf("%v", c)
	}
	p.begin("life") // again is a success
	if _, code := p.output(id, "sh", "-c", "echo kept > /kept"); code != 0 {
		t.Fatal(code)
	}
	_, err := p.Remove(t.Context(), &nodev1.RemoveRequest{Container: "life"})
	refuses(p, "removal of a running container", err, `container "life" is running`, "--force")
	_, err = p.Stop(t.Context(), &nodev1.StopRequest{Container: "life"})
	p.must(err)
	c = p.get(id)
	if c.State != "exited" || c.ExitCode != 7 || len(c.Ips) != 0 {
		t.Errorf("stopped: %v", c)
	}
	// The same id, the same files, another network.
	p.begin(id)
	p.becomes(id, "running")
	if out, code := p.output("life", "cat", "/kept"); out != "kept\n" || code != 0 {
		t.Errorf("the file is %q (%d)", out, code)
	}
	_, err = p.Restart(t.Context(), &nodev1.RestartRequest{Container: id[:12]})
	p.must(err)
	if out, _ := p.output("life", "cat", "/kept"); out != "kept\n" {
		t.Errorf("the file is %q after a restart", out)
	}
	_, err = p.Pause(t.Context(), &nodev1.PauseRequest{Container: id})
	p.must(err)
	equal(p.env, "state", p.get(id).GetState(), "paused")
	_, err = p.Pause(t.Context(), &nodev1.PauseRequest{Container: id})
	refuses(p, "second pause", err, "paused already")
	_, err = p.Unpause(t.Context(), &nodev1.UnpauseRequest{Container: id})
	p.must(err)
	_, err = p.Kill(t.Context(), &nodev1.KillRequest{Container: id})
	p.must(err)
	c = p.get(id)
	if c.State != "exited" || c.ExitCode != 137 {
		t.Errorf("killed: %v", c)
	}
	_, err = p.Kill(t.Context(), &nodev1.KillRequest{Container: id})
	refuses(p, "second kill", err, "does not run")
	_, err = p.Remove(t.Context(), &nodev1.RemoveRequest{Container: "life"})
	p.must(err)
	if p.get(id) != nil {
		t.Error("it is still there")
	}
	// kubelet has seen nothing of it.
	for _, name := range []string{"containers", "logs"} {
		if left, err := filepath.Glob(filepath.Join(p.node.Root, "node", name, id+"*")); err != nil || len(left) != 0 {
			t.Errorf("left: %v %v", left, err)
		}
	}
}

// TestPeopleNames: names are unique, may be made up, and may change.
func TestPeopleNames(t *testing.T) {
	p := onPeople(t)
	first := p.make(request(forever, named("taken")))
	_, err := p.Create(t.Context(), request(forever, named("taken")))
	refuses(p, "second of a name", err, `container "taken" exists already`, first[:12], "cri-node rm taken", "--name")
	if status.Code(err) != codes.AlreadyExists {
		t.Error(err)
	}
	_, err = p.Create(t.Context(), request(forever, named("no/name")))
	refuses(p, "bad name", err, "name:")
	second := p.make(request(forever))
	made := p.get(second).GetName()
	if adjective, noun, ok := strings.Cut(made, "_"); !ok || adjective == "" || noun == "" {
		t.Errorf("the name is %q", made)
	}
	_, err = p.Rename(t.Context(), &nodev1.RenameRequest{Container: made, Name: "taken"})
	refuses(p, "rename", err, "exists already")
	_, err = p.Rename(t.Context(), &nodev1.RenameRequest{Container: "taken", Name: "free"})
	p.must(err)
	_, err = p.Rename(t.Context(), &nodev1.RenameRequest{Container: made, Name: "taken"})
	p.must(err)
	equal(p.env, "id", p.get("free").GetId(), first)
	equal(p.env, "id", p.get("taken").GetId(), second)
	_, err = p.Start(t.Context(), &nodev1.StartRequest{Container: made})
	refuses(p, "start of an old name", err, "no container", "ps -a")
}

// TestPeopleRun attaches before the start, so that nothing is missed.
func TestPeopleRun(t *testing.T) {
	p := onPeople(t)
	id := p.make(request([]string{"sh", "-c", "echo out; echo err >&2; read x; echo got $x; exit 3"}, named("attached"), autoRemove,
		func(r *nodev1.CreateRequest) { r.Container.Stdin = true; r.Container.StdinOnce = true }))
	stream, err := p.Attach(t.Context())
	p.must(err)
	p.must(stream.Send(&nodev1.AttachRequest{Open: &nodev1.AttachOpen{Container: id, Stdin: true, Stdout: true, Stderr: true, Start: true}}))
	p.must(stream.Send(&nodev1.AttachRequest{Stdin: []byte("hello\n")}))
	p.must(stream.Send(&nodev1.AttachRequest{StdinClosed: true}))
	out, exit, err := readStream(stream)
	p.must(err)
	contains(p.env, "output", out, "out\n", "err\n", "got hello\n")
	equal(p.env, "exit code", exit.GetCode(), 3)
	if p.get(id) != nil {
		t.Error("--rm: it is still there when run returns")
	}
}

// TestPeopleTerminal: a terminal of the client's size, signals, and a client that
// leaves the container running.
func TestPeopleTerminal(t *testing.T) {
	p := onPeople(t)
	id := p.make(request([]string{"sh", "-c", "stty size; exec sh"}, named("terminal"),
		func(r *nodev1.CreateRequest) { r.Container.Stdin = true; r.Container.Tty = true }))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := p.Attach(ctx)
	p.must(err)
	p.must(stream.Send(&nodev1.AttachRequest{Open: &nodev1.AttachOpen{Container: id, Stdin: true, Stdout: true, Start: true, Size: &nodev1.TerminalSize{Width: 91, Height: 33}}}))
	out := ""
	for !strings.Contains(out, "33 91") && !strings.Contains(out, "#") {
		m, err := stream.Recv()
		p.must(err)
		out += string(m.Stdout)
	}
	p.must(stream.Send(&nodev1.AttachRequest{Stdin: []byte("echo $((6*7))\n")}))
	for !strings.Contains(out, "42") {
		m, err := stream.Recv()
		p.must(err)
		out += string(m.Stdout)
	}
	leave()
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Error("the stream ended without an error")
	}
	p.becomes(id, "running")
	_, err = p.Stop(t.Context(), &nodev1.StopRequest{Container: id, Timeout: new(int64)})
	p.must(err)
	equal(p.env, "exit code", p.get(id).GetExitCode(), 137)
}

// TestPeopleExec: environment, directory, user, exit codes.
func TestPeopleExec(t *testing.T) {
	p := onPeople(t)
	id := p.run(forever, named("execs"))
	for _, test := range []struct {
		name string
		open *nodev1.ExecOpen
		out  string
		code int32
	}{
		{"output and code", &nodev1.ExecOpen{Command: []string{"sh", "-c", "echo hi; exit 5"}}, "hi\n", 5},
		{"environment and directory", &nodev1.ExecOpen{Command: []string{"sh", "-c", "echo $A $PWD"}, Env: []string{"A=b"}, Workdir: "/tmp"}, "b /tmp\n", 0},
		{"user", &nodev1.ExecOpen{Command: []string{"id", "-u"}, User: "1234"}, "1234\n", 0},
		{"privileged", &nodev1.ExecOpen{Command: []string{"sh", "-c", "mount -t tmpfs none /mnt 2>/dev/null; mkdir -p /m && mount -t tmpfs none /m && echo mounted; umount /m"}, Privileged: true}, "mounted\n", 0},
		{"terminal", &nodev1.ExecOpen{Command: []string{"sh", "-c", "test -t 1 && stty size"}, Tty: true, Size: &nodev1.TerminalSize{Width: 70, Height: 20}}, "20 70\r\n", 0},
		{"signal", &nodev1.ExecOpen{Command: []string{"sh", "-c", "kill -9 $$"}}, "", 137},
	} {
		test.open.Container = "execs"
		out, exit := p.execute(test.open)
		if out != test.out || exit.GetCode() != test.code {
			t.Errorf("%s: %q, %v", test.name, out, exit)
		}
	}
	for command, code := range map[string]int32{"no-such-program": 127, "/etc/passwd": 126, "/etc": 126} {
		for _, detach := range []bool{false, true} {
			_, exit := p.execute(&nodev1.ExecOpen{Container: id, Command: []string{command}, Detach: detach})
			if exit.GetCode() != code || exit.GetError() == "" {
				t.Errorf("%s (detached: %v): %v", command, detach, exit)
			}
		}
	}
	_, exit := p.execute(&nodev1.ExecOpen{Container: id, Command: []string{"sh", "-c", "echo 1 > /detached; sleep 100"}, Detach: true})
	equal(p.env, "code", exit.GetCode(), 0)
	p.eventually(10*time.Second, func() error {
		if out, _ := p.output(id, "cat", "/detached"); out != "1\n" {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	_, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: id})
	p.must(err)
	stream, err := p.Exec(t.Context())
	p.must(err)
	p.must(stream.Send(&nodev1.ExecRequest{Open: &nodev1.ExecOpen{Container: id, Command: []string{"true"}}}))
	_, _, err = readStream(stream)
	refuses(p, "exec in a stopped container", err, `container "execs" does not run`, "cri-node start execs")
}

// TestPeopleExecGoesOn when its client has gone, as docker's does; its terminal
// hangs up.
func TestPeopleExecGoesOn(t *testing.T) {
	p := onPeople(t)
	id := p.run(forever)
	for _, test := range []struct {
		name, script string
		tty          bool
	}{
		{"silent", "echo begun; until test -e /go; do sleep 0.02; done; touch /done", false},
		{"talking", "echo begun; until test -e /go; do echo $((n++)); sleep 0.02; done; touch /done", false},
		{"reading", "echo begun; cat >/dev/null; touch /done", false},
		{"terminal", "trap 'touch /done; exit' HUP; echo begun; while :; do sleep 0.02; done", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &people{p.in(t), p.ContainersClient, p.system}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := p.Exec(ctx)
			p.must(err)
			p.must(stream.Send(&nodev1.ExecRequest{Open: &nodev1.ExecOpen{
				Container: id, Command: []string{"sh", "-c", test.script}, Stdin: true, Tty: test.tty,
			}}))
			for out := ""; !strings.Contains(out, "begun"); {
				m, err := stream.Recv()
				p.must(err)
				out += string(m.GetStdout())
			}
			cancel()
			_, _, err = readStream(stream)
			refuses(p, "a client that is gone", err, "canceled")
			_, code := p.output(id, "touch", "/go")
			equal(p.env, "code", code, 0)
			p.eventually(10*time.Second, func() error {
				if _, code := p.output(id, "rm", "/done"); code != 0 {
					return errors.New("it is not done")
				}
				return nil
			})
			p.output(id, "rm", "/go")
		})
	}
}

// TestPeopleWait knows docker's three conditions.
func TestPeopleWait(t *testing.T) {
	p := onPeople(t)
	id := p.make(request([]string{"sh", "-c", "sleep 0.3; exit 4"}, named("waited")))
	equal(p.env, "code before the start", p.wait(id, ""), 0)
	next := make(chan int32, 1)
	go func() {
		r, err := p.Wait(t.Context(), &nodev1.WaitRequest{Container: id, Condition: "next-exit"})
		if err != nil {
			t.Error(err)
		}
		next <- r.GetExitCode()
	}()
	p.begin(id)
	equal(p.env, "code", p.wait(id, "not-running"), 4)
	equal(p.env, "code of the next exit", <-next, 4)
	equal(p.env, "code of the last run", p.wait(id, "not-running"), 4)
	gone := make(chan error, 1)
	go func() {
		_, err := p.Wait(t.Context(), &nodev1.WaitRequest{Container: id, Condition: "removed"})
		gone <- err
	}()
	_, err := p.Remove(t.Context(), &nodev1.RemoveRequest{Container: id})
	p.must(err)
	if err := <-gone; err != nil && !strings.Contains(err.Error(), "no container") {
		t.Error(err)
	}
	_, err = p.Wait(t.Context(), &nodev1.WaitRequest{Container: "life-less", Condition: ""})
	refuses(p, "wait for nothing", err, "no container")
}

// TestPeopleInspect: what templates of people look for is where docker has it.
func TestPeopleInspect(t *testing.T) {
	p := onPeople(t)
	id := p.run([]string{"sleep", "1000"}, named("inspected"), func(r *nodev1.CreateRequest) {
		r.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}}
		r.Container.Labels = map[string]string{"l": "v"}
		r.Tmpfs = []*nodev1.Tmpfs{{Path: "/t", Options: []string{"size=1m"}}}
		r.Restart = &nodev1.RestartPolicy{Name: "on-failure", Maximum: 3}
	})
	d := p.inspected(id)
	at := func(path string) any {
		var v any = d
		for name := range strings.SplitSeq(path, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[name]
		}
		return v
	}
	for path, want := range map[string]any{
		"Id": id, "Name": "/inspected", "Path": "sleep", "State.Status": "running", "State.Running": true,
		"Config.Hostname": id[:12], "Config.Labels.l": "v", "HostConfig.RestartPolicy.Name": "on-failure",
		"HostConfig.RestartPolicy.MaximumRetryCount": 3.0, "HostConfig.Tmpfs./t": "size=1m", "Config.Image": shared.image,
		"Pod.Name": "inspected",
	} {
		if got := at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if cmd, ok := at("Config.Cmd").([]any); !ok || len(cmd) != 2 || cmd[0] != "sleep" {
		t.Errorf("Config.Cmd is %v", at("Config.Cmd"))
	}
	if env, ok := at("Config.Env").([]any); !ok || !slices.Contains(env, any("A=b")) {
		t.Errorf("Config.Env is %v", at("Config.Env"))
	}
	if ip, ok := at("NetworkSettings.IPAddress").(string); !ok || ip == "" {
		t.Errorf("NetworkSettings is %v", at("NetworkSettings"))
	}
	top, err := p.Top(t.Context(), &nodev1.TopRequest{Container: id})
	p.must(err)
	if len(top.Processes) != 1 || !slices.Contains(top.Titles, "PID") || !strings.Contains(strings.Join(top.Processes[0].Columns, " "), "sleep 1000") {
		t.Errorf("%v", top)
	}
}

// TestPeopleCreateLeavesNothing: what fails, or whose client goes away, leaves
// neither pod nor volume nor name.
func TestPeopleCreateLeavesNothing(t *testing.T) {
	p := onPeople(t)
	pods := func() int {
		r, err := p.node.Raw.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{
			Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.cri-node.owner": "people"}},
		})
		p.must(err)
		return len(r.Items)
	}
	before := pods()
	volume := func(r *nodev1.CreateRequest) {
		r.Volumes = []*nodev1.VolumeMount{{Name: "leftover", Path: "/v"}}
	}
	_, err := p.Create(t.Context(), request([]string{"no-such-program"}, named("fails"), volume))
	refuses(p, "a program that is not there", err, "no-such-program")
	_, err = p.Create(t.Context(), request(forever, named("fails"), func(r *nodev1.CreateRequest) { r.Container.Image.Image = "no/such:image" }))
	refuses(p, "no image", err, `image "no/such:image" is not on this node`, "cri-node pull")
	for patience := time.Millisecond; patience < 600*time.Millisecond; patience *= 3 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if r, err := p.Create(ctx, request(forever, named("fails-"+patience.String()), volume)); err == nil {
			p.rm(r.Id)
		}
		cancel()
	}
	// The undoing goes on when the client has gone.
	p.eventually(20*time.Second, func() error {
		if now := pods(); now != before {
			return fmt.Errorf("there are %d pods, not %d", now, before)
		}
		return nil
	})
	p.eventually(20*time.Second, func() error {
		_, err := p.system.RemoveVolume(t.Context(), &nodev1.RemoveVolumeRequest{Name: "leftover", Force: true})
		return err
	})
	p.eventually(20*time.Second, func() error {
		r, err := p.Create(t.Context(), request(forever, named("fails")))
		if err == nil {
			p.rm(r.Id)
		}
		return err
	})
}

// TestPeopleUpdate changes limits while a container runs, and while it does not.
func TestPeopleUpdate(t *testing.T) {
	p := onPeople(t)
	id := p.run(forever, named("limited"))
	memory := func() float64 {
		host, ok := p.inspected(id)["HostConfig"].(map[string]any)
		if !ok {
			t.Fatal("no HostConfig")
		}
		limit, _ := host["Memory"].(float64)
		return limit
	}
	set := func(bytes int64) {
		_, err := p.Update(t.Context(), &nodev1.UpdateRequest{Container: id, Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: bytes}})
		p.must(err)
	}
	set(64 << 20)
	equal(p.env, "limit", memory(), 64<<20)
	_, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: id})
	p.must(err)
	set(96 << 20)
	p.begin(id)
	p.becomes(id, "running")
	equal(p.env, "limit", memory(), 96<<20)
	_, err = p.Update(t.Context(), &nodev1.UpdateRequest{Container: id, Restart: &nodev1.RestartPolicy{Name: "always"}})
	p.must(err)
	p.must(unix.Kill(int(p.get(id).Pid), unix.SIGKILL))
	p.restartsOf(id, 1)
}
