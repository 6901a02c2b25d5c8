package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// TestContainerLifecycle goes through the states and what the status says in each.
func TestContainerLifecycle(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.create(p, "c", []string{"probe", "trap", "-exit", "7"})
		s := e.status(c.id)
		equal(e, "state", s.State, runtimeapi.ContainerState_CONTAINER_CREATED)
		equal(e, "metadata", s.Metadata.String(), c.config.Metadata.String())
		equal(e, "labels", fmt.Sprint(s.Labels), fmt.Sprint(c.config.Labels))
		equal(e, "annotations", fmt.Sprint(s.Annotations), fmt.Sprint(c.config.Annotations))
		equal(e, "log path", s.LogPath, c.log)
		equal(e, "image", s.Image.Image, shared.image)
		if s.ImageRef == "" || s.ImageId == "" || s.CreatedAt == 0 || s.StartedAt != 0 || s.FinishedAt != 0 {
			e.Errorf("status of a created container is %v", s)
		}
		e.must(e.node.Runtime.StartContainer(e.Context(), c.id))
		s = e.status(c.id)
		equal(e, "state", s.State, runtimeapi.ContainerState_CONTAINER_RUNNING)
		if s.StartedAt < s.CreatedAt {
			e.Errorf("started at %d, before it was created at %d", s.StartedAt, s.CreatedAt)
		}
		if err := e.node.Runtime.StartContainer(e.Context(), c.id); err == nil {
			e.Error("started a running container")
		}
		e.logHas(c, "ready")
		e.must(e.node.Runtime.StopContainer(e.Context(), c.id, 10))
		s = e.status(c.id)
		equal(e, "state", s.State, runtimeapi.ContainerState_CONTAINER_EXITED)
		equal(e, "exit code", s.ExitCode, 7)
		if s.FinishedAt < s.StartedAt {
			e.Errorf("finished at %d, before it was started at %d", s.FinishedAt, s.StartedAt)
		}
		if err := e.node.Runtime.StartContainer(e.Context(), c.id); err == nil {
			e.Error("started an exited container")
		}
		e.must(e.node.Runtime.RemoveContainer(e.Context(), c.id))
		if _, err := e.node.Runtime.ContainerStatus(e.Context(), c.id, false); err == nil {
			e.Error("a removed container has a status")
		}
		e.exitedLogStays(c)
	})
}

// exitedLogStays: the log of a removed container is kubelet's.
func (e *env) exitedLogStays(c *container) {
	e.Helper()
	if _, err := os.Stat(c.log); err != nil {
		e.Errorf("log of a removed container: %v", err)
	}
}

// TestContainerCommand applies the rules for command, args, entrypoint and cmd.
func TestContainerCommand(t *testing.T) {
	e := onShared(t)
	ref, _ := e.push("command/entry:1", image.Spec{
		Layers: [][]image.File{shared.busybox, {image.Text("f", "entry")}},
		Config: v1.Config{
			Entrypoint: []string{"echo", "entry"}, Cmd: []string{"cmd"}, WorkingDir: "/made/for/it",
			Env: []string{"FROM_IMAGE=image", "BOTH=image", "PATH=/bin:/odd"}, StopSignal: "SIGUSR1",
		},
	})
	id := e.pull(ref)
	bare, _ := e.push("command/bare:1", image.Spec{Layers: [][]image.File{shared.busybox, {image.Text("f", "bare")}}})
	bareID := e.pull(bare)
	p := e.runPod("")
	for _, tc := range []struct {
		name          string
		command, args []string
		want          string
	}{
		{"neither", nil, nil, "entry cmd\n"},
		{"args replace cmd", nil, []string{"args"}, "entry args\n"},
		{"command drops cmd", []string{"echo", "command"}, nil, "command\n"},
		{"both", []string{"echo", "command"}, []string{"a", "b c"}, "command a b c\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := e.in(t)
			r := e.runs(p, podName(t), tc.command, using(id), func(c *runtimeapi.ContainerConfig) { c.Args = tc.args })
			equal(e, "stdout", r.stdout, tc.want)
		})
	}
	t.Run("nothing to run", func(t *testing.T) {
		config := kubelet.Container{Name: "none", Image: bareID}.Config(p.config)
		if _, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config); err == nil {
			t.Error("created a container without a command")
		}
	})
	t.Run("environment and directory", func(t *testing.T) {
		e := e.in(t)
		r := e.sh(p, "env", "env; echo dir=$(pwd)", using(id), func(c *runtimeapi.ContainerConfig) {
			c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "BOTH", Value: []byte("request")}, &runtimeapi.KeyValue{Key: "ODD", Value: []byte("a=b c")})
		})
		contains(e, "output", r.stdout, "FROM_IMAGE=image\n", "BOTH=request\n", "ODD=a=b c\n", "PATH=/bin:/odd\n", "KUBERNETES_SERVICE_PORT=443\n", "dir=/made/for/it\n")
		r = e.sh(p, "dir", "pwd", using(id), func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/etc/secret" })
		equal(e, "working directory", r.stdout, "/etc/secret\n")
		r = e.sh(p, "path", "echo $PATH", using(bareID))
		contains(e, "PATH of an image without", r.stdout, "/bin")
	})
	t.Run("stop signal", func(t *testing.T) {
		e := e.in(t)
		image := e.start(p, "image-signal", []string{"probe", "trap"}, using(id))
		e.logHas(image, "ready")
		equal(e, "stop signal", e.status(image.id).StopSignal, runtimeapi.Signal_SIGNAL_SIGUSR1)
		e.must(e.node.Runtime.StopContainer(t.Context(), image.id, 10))
		equal(e, "stdout", e.ended(image).stdout, "ready\ngot SIGUSR1\n")
		asked := e.start(p, "asked-signal", []string{"probe", "trap"}, using(id), func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_SIGHUP })
		e.logHas(asked, "ready")
		e.must(e.node.Runtime.StopContainer(t.Context(), asked.id, 10))
		equal(e, "stdout", e.ended(asked).stdout, "ready\ngot SIGHUP\n")
	})
}

// memoryLimit limits memory and swap together.
func memoryLimit(bytes int64) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = bytes, bytes
	}
}

// TestContainerEnds checks exit codes and reasons.
func TestContainerEnds(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		for _, tc := range []struct {
			name, script string
			edit         func(*runtimeapi.ContainerConfig)
			code         int32
			reason       string
		}{
			{"zero", "exit 0", nil, 0, "Completed"},
			{"three", "exit 3", nil, 3, "Error"},
			{"255", "exit 255", nil, 255, "Error"},
			{"at-once", "", nil, 0, "Completed"},
			{"signal", "kill -9 $$", nil, 137, "Error"},
			{"oom", "exec probe hog -mib 200", memoryLimit(30 << 20), 137, "OOMKilled"},
			{"oom-child", "probe hog -mib 200; exit $?", memoryLimit(30 << 20), 137, "OOMKilled"},
			{"oom-tight", "exec dd if=/dev/zero of=/dev/null bs=20M", memoryLimit(15 << 20), 137, "OOMKilled"},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				var edits []func(*runtimeapi.ContainerConfig)
				if tc.edit != nil {
					edits = append(edits, tc.edit)
				}
				s := e.sh(p, tc.name, tc.script, edits...).status
				// A process 1 ignores its own SIGKILL.
				if tc.name != "signal" {
					equal(e, "exit code", s.ExitCode, tc.code)
					equal(e, "reason", s.Reason, tc.reason)
				}
			})
		}
	})
}

// TestContainerStartFails leaves the container EXITED with a reason.
func TestContainerStartFails(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		for _, tc := range []struct{ name, command, want string }{
			{"missing", "/no/such/program", "no such"},
			{"not executable", "/etc/passwd", "permission denied"},
			{"directory", "/etc", ""},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				config := kubelet.Container{Name: podName(t), Image: shared.image, Command: []string{tc.command}}.Config(p.config)
				// A runtime may find out when it creates, or when it starts.
				id, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config)
				if err != nil {
					contains(e, "error", strings.ToLower(err.Error()), tc.want)
					return
				}
				err = e.node.Runtime.StartContainer(t.Context(), id)
				if err == nil {
					t.Fatal("started")
				}
				contains(e, "error", strings.ToLower(err.Error()), tc.want)
				s := e.status(id)
				equal(e, "state", s.State, runtimeapi.ContainerState_CONTAINER_EXITED)
				equal(e, "reason", s.Reason, "StartError")
				equal(e, "exit code", s.ExitCode, 128)
			})
		}
	})
}

// TestContainerStop: signal, patience, SIGKILL.
func TestContainerStop(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "stubborn", []string{"probe", "trap", "-ignore"})
		e.logHas(c, "ready")
		began := time.Now()
		e.must(e.node.Runtime.StopContainer(e.Context(), c.id, 1))
		if took := time.Since(began); took < 900*time.Millisecond || took > pace.Limit(8*time.Second) {
			e.Errorf("stop with a timeout of 1 s took %v", took)
		}
		r := e.ended(c)
		equal(e, "exit code", r.status.ExitCode, 137)
		equal(e, "stdout", r.stdout, "ready\ngot SIGTERM\n")

		d := e.start(p, "killed", []string{"probe", "trap"})
		e.logHas(d, "ready")
		e.must(e.node.Runtime.StopContainer(e.Context(), d.id, 0))
		r = e.ended(d)
		equal(e, "exit code", r.status.ExitCode, 137)
		equal(e, "stdout", r.stdout, "ready\n")

		// A later, more impatient call wins.
		f := e.start(p, "hurried", []string{"probe", "trap", "-ignore"})
		e.logHas(f, "ready")
		patient := make(chan error, 1)
		go func() { patient <- e.node.Runtime.StopContainer(cleanup(e.T), f.id, 60) }()
		e.logHas(f, "got SIGTERM")
		e.must(e.node.Runtime.StopContainer(e.Context(), f.id, 0))
		select {
		case err := <-patient:
			e.must(err)
		case <-time.After(pace.Limit(10 * time.Second)):
			e.Fatal("the patient stop goes on after the container has ended")
		}

		// Of a container that never ran nothing is to stop.
		g := e.create(p, "created", []string{"true"})
		e.must(e.node.Runtime.StopContainer(e.Context(), g.id, 5))
	})
}

// TestContainerRemoveRunning is forced.
func TestContainerRemoveRunning(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"probe", "trap", "-ignore"})
		e.must(e.node.Runtime.RemoveContainer(e.Context(), c.id))
		list, err := e.node.Runtime.ListContainers(e.Context(), &runtimeapi.ContainerFilter{PodSandboxId: p.id})
		e.must(err)
		equal(e, "containers left", len(list), 0)
	})
}

// TestContainerTTY merges the streams and has a terminal; stdin without attach
// stays open, and without stdin there is none.
func TestContainerTTY(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		r := e.sh(p, "tty", "tty; echo to-stderr >&2; echo term=$TERM", func(c *runtimeapi.ContainerConfig) { c.Tty, c.Stdin = true, true })
		contains(e, "output", r.stdout, "/dev/", "to-stderr", "term=xterm")
		equal(e, "stderr", r.stderr, "")
		r = e.sh(p, "no-tty", "tty; readlink /proc/self/fd/0; cat")
		contains(e, "output", r.stdout, "not a tty\n", "/dev/null\n")
		c := e.start(p, "stdin", []string{"sh", "-c", "echo waiting; cat; echo over"}, func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
		e.logHas(c, "waiting")
		equal(e, "reader of an open stdin", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	})
}

// TestContainerVolumesOfImage have their content and are not in the status.
func TestContainerVolumesOfImage(t *testing.T) {
	e := onShared(t)
	ref, _ := e.push("volumes/a:1", image.Spec{
		Layers: [][]image.File{shared.busybox, {image.Dir("vol"), image.Text("vol/seed", "seed\n")}},
		Config: v1.Config{Volumes: map[string]struct{}{"/vol": {}}},
	})
	id := e.pull(ref)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"}, using(id))
	equal(e, "content", e.exec(c.id, "cat", "/vol/seed"), "seed\n")
	e.exec(c.id, "touch", "/vol/new")
	equal(e, "mounts in the status", len(e.status(c.id).Mounts), 0)
}

// TestContainerLogDirectoryMade: the folder of the log may not exist, and there
// may be no log at all.
func TestContainerLogDirectoryMade(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	e.runs(p, "deep", []string{"true"}, func(c *runtimeapi.ContainerConfig) { c.LogPath = filepath.Join("a", "b", "c.log") })
	c := e.start(p, "none", []string{"sh", "-c", "echo nobody reads; exit 4"}, func(c *runtimeapi.ContainerConfig) { c.LogPath = "" })
	s := e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
	equal(e, "exit code", s.ExitCode, 4)
}
