package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// restartsOf waits until a container was restarted so often.
func (p *people) restartsOf(id string, n uint32) {
	p.Helper()
	p.eventually(30*time.Second, func() error {
		if c := p.get(id); c.GetRestarts() < n {
			return fmt.Errorf("it was restarted %d times, not %d (%s)", c.GetRestarts(), n, c.GetState())
		}
		return nil
	})
}

// TestPeopleRestartPolicies: who is started again, how often, and what ends it.
func TestPeopleRestartPolicies(t *testing.T) {
	p := onPeople(t)
	t.Run("on-failure", func(t *testing.T) {
		p := &people{p.in(t), p.ContainersClient, p.system}
		id := p.run([]string{"sh", "-c", "echo x >> /runs; exit 9"}, restarting("on-failure", 2))
		p.restartsOf(id, 2)
		c := p.becomes(id, "exited")
		if c.Restarts != 2 || c.ExitCode != 9 {
			t.Errorf("%v", c)
		}
		fine := p.run([]string{"true"}, restarting("on-failure", 0))
		equal(p.env, "code", p.wait(fine, ""), 0)
		equal(p.env, "restarts", p.becomes(fine, "exited").GetRestarts(), 0)
	})
	t.Run("always", func(t *testing.T) {
		p := &people{p.in(t), p.ContainersClient, p.system}
		id := p.run([]string{"sh", "-c", "echo x >> /runs; wc -l < /runs; test $(wc -l < /runs) -lt 3 && exit 0; sleep 1000"}, restarting("always", 0))
		p.restartsOf(id, 2)
		p.becomes(id, "running")
		p.eventually(10*time.Second, func() error {
			if lines := p.logsOf(&nodev1.LogsRequest{Container: id}); !slices.Equal(lines, []string{"1", "2", "3"}) {
				return fmt.Errorf("its log is %q: files and log stay over restarts", lines)
			}
			return nil
		})
		// Killed from outside it comes back; stopped it does not.
		p.must(unix.Kill(int(p.get(id).Pid), unix.SIGKILL))
		p.restartsOf(id, 3)
		p.becomes(id, "running")
		_, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: id, Timeout: new(int64)})
		p.must(err)
		time.Sleep(pace.Limit(300 * time.Millisecond))
		equal(p.env, "state", p.get(id).GetState(), "exited")
		p.begin(id)
		p.becomes(id, "running")
	})
	t.Run("a stop ends the wait", func(t *testing.T) {
		p := &people{p.in(t), p.ContainersClient, p.system}
		id := p.run([]string{"false"}, restarting("unless-stopped", 0))
		p.restartsOf(id, 3)
		p.becomes(id, "restarting")
		_, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: id})
		p.must(err)
		n := p.becomes(id, "exited").GetRestarts()
		time.Sleep(pace.Limit(time.Second))
		if c := p.get(id); c.State != "exited" || c.Restarts != n {
			t.Errorf("%v", c)
		}
	})
	_, err := p.Create(t.Context(), request(forever, restarting("always", 0), autoRemove))
	refuses(p, "--rm and --restart", err, "--rm")
}

// TestPeopleSurviveTheDaemon: what was to happen happens, also where the daemon
// was killed meanwhile.
func TestPeopleSurviveTheDaemon(t *testing.T) {
	e := ownNode(t, node.Options{Number: 71})
	p := peopleOf(e)
	always := p.run(forever, named("always"), restarting("always", 0))
	stopped := p.run(forever, named("stopped"), restarting("unless-stopped", 0))
	removed := p.run(forever, named("removed"), autoRemove)
	healthy := p.run(forever, named("healthy"), func(r *nodev1.CreateRequest) {
		r.Healthcheck = &nodev1.Healthcheck{Test: []string{"CMD", "true"}, Interval: int64(200 * time.Millisecond)}
	})
	ill := p.run(forever, named("ill"), func(r *nodev1.CreateRequest) {
		r.Healthcheck = &nodev1.Healthcheck{Test: []string{"CMD-SHELL", "echo ill; exit 3"}, Interval: int64(100 * time.Millisecond)}
	})
	_, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: stopped})
	p.must(err)
	p.eventually(20*time.Second, func() error { return p.healthIs(healthy, "healthy") })
	p.eventually(30*time.Second, func() error { return p.illFor(ill, 10) })
	pids := []int{int(p.get(always).Pid), int(p.get(removed).Pid)}
	stays := p.get(healthy).Pid
	_, exit := p.execute(&nodev1.ExecOpen{Container: healthy, Detach: true, Command: []string{"sh", "-c", "until test -e /go; do sleep 0.1; done; touch /done"}})
	equal(e, "code of a detached exec", exit.GetCode(), 0)

	p.must(e.node.Kill())
	for _, pid := range pids {
		p.must(unix.Kill(pid, unix.SIGKILL))
	}
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	p.vanishes(removed)
	c := p.becomes(always, "running")
	if int(c.Pid) == pids[0] {
		t.Error("it was not restarted")
	}
	equal(e, "state of what was stopped", p.get(stopped).GetState(), "exited")
	equal(e, "pid of what ran on", p.get(healthy).GetPid(), stays)
	equal(e, "health", p.get(healthy).GetHealth(), "healthy")
	p.must(p.illFor(ill, 10))
	p.output(healthy, "touch", "/go")
	p.eventually(10*time.Second, func() error {
		if _, code := p.output(healthy, "test", "-e", "/done"); code != 0 {
			return errors.New("a detached exec has ended with the daemon")
		}
		return nil
	})
	_, err = p.Kill(t.Context(), &nodev1.KillRequest{Container: healthy})
	p.must(err)

	// The machine goes down under all of them.
	p.must(e.node.Reboot(t.Context()))
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	p.becomes(always, "running")
	equal(e, "state of what was stopped", p.get(stopped).GetState(), "exited")
	p.begin(stopped)
	p.becomes(stopped, "running")
}

// illFor fails unless that many probes have failed, the last of which are known.
func (p *people) illFor(id string, probes int) error {
	r, err := p.Inspect(p.Context(), &nodev1.InspectRequest{Container: id})
	if err != nil {
		return err
	}
	var document struct {
		State struct {
			Health struct {
				Status        string
				FailingStreak int
				Log           []struct {
					ExitCode int
					Output   string
				}
			}
		}
	}
	p.must(json.Unmarshal(r.GetJson(), &document))
	h := document.State.Health
	if h.Status != "unhealthy" || h.FailingStreak < probes || len(h.Log) < 5 || h.Log[0].ExitCode != 3 || h.Log[0].Output != "ill\n" {
		return fmt.Errorf("%+v", h)
	}
	return nil
}

func (p *people) healthIs(id, want string) error {
	if c := p.get(id); c.GetHealth() != want {
		return fmt.Errorf("its health is %q, not %q", c.GetHealth(), want)
	}
	return nil
}

// TestPeopleDaemonStops although clients wait, follow and are attached.
func TestPeopleDaemonStops(t *testing.T) {
	e := ownNode(t, node.Options{Number: 72})
	p := peopleOf(e)
	id := p.run(forever)
	logs, err := p.Logs(t.Context(), &nodev1.LogsRequest{Container: id, Follow: true})
	p.must(err)
	if _, err := logs.Recv(); err != nil {
		t.Fatal(err)
	}
	attached, err := p.Attach(t.Context())
	p.must(err)
	p.must(attached.Send(&nodev1.AttachRequest{Open: &nodev1.AttachOpen{Container: id, Stdout: true}}))
	if m, err := attached.Recv(); err != nil || !m.Ready {
		t.Fatal(m, err)
	}
	events, err := p.Events(t.Context(), &nodev1.EventsRequest{Since: 1})
	p.must(err)
	if _, err := events.Recv(); err != nil {
		t.Fatal(err)
	}
	p.must(e.node.Stop(10 * time.Second))
	_, err = readLogs(logs)
	refuses(p, "logs", err, "shutting down")
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	equal(e, "state", p.get(id).GetState(), "running")
}

// TestPeopleAutoRemove by the daemon, whoever is still there.
func TestPeopleAutoRemove(t *testing.T) {
	p := onPeople(t)
	id := p.run([]string{"sleep", "0.2"}, autoRemove, func(r *nodev1.CreateRequest) {
		r.Volumes = []*nodev1.VolumeMount{{Path: "/anonymous"}, {Name: "kept", Path: "/kept"}}
	})
	p.vanishes(id)
	p.eventually(10*time.Second, func() error {
		list, err := p.system.ListVolumes(t.Context(), &nodev1.ListVolumesRequest{})
		p.must(err)
		if len(list.Volumes) != 1 || list.Volumes[0].Name != "kept" || len(list.Volumes[0].Containers) > 0 {
			return fmt.Errorf("volumes: %v", list.Volumes)
		}
		return nil
	})
	_, err := p.system.RemoveVolume(t.Context(), &nodev1.RemoveVolumeRequest{Name: "kept"})
	p.must(err)
}

// TestPeopleHealth: of the request, of the image, and as docker's.
func TestPeopleHealth(t *testing.T) {
	p := onPeople(t)
	id := p.run(forever, func(r *nodev1.CreateRequest) {
		r.Healthcheck = &nodev1.Healthcheck{Test: []string{"CMD-SHELL", "cat /well"}, Interval: int64(100 * time.Millisecond), Retries: 2}
	})
	p.eventually(20*time.Second, func() error { return p.healthIs(id, "unhealthy") })
	if _, code := p.output(id, "touch", "/well"); code != 0 {
		t.Fatal(code)
	}
	p.eventually(20*time.Second, func() error { return p.healthIs(id, "healthy") })
	_, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: id})
	p.must(err)
	ref, _ := p.push("health/image:1", image.Spec{
		Layers: [][]image.File{shared.busybox},
		Config: v1.Config{Cmd: forever, Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: 100 * time.Millisecond}},
	})
	p.pull(ref)
	fromImage := p.run(nil, func(r *nodev1.CreateRequest) { r.Container.Image.Image = ref })
	p.eventually(20*time.Second, func() error { return p.healthIs(fromImage, "healthy") })
	none := p.run(nil, func(r *nodev1.CreateRequest) {
		r.Container.Image.Image = ref
		r.Healthcheck = &nodev1.Healthcheck{Test: []string{"NONE"}}
	})
	equal(p.env, "health of none", p.get(none).GetHealth(), "")
}

// TestPeopleLogs: the last lines, since, and following over a rotation.
func TestPeopleLogs(t *testing.T) {
	p := onPeople(t)
	id := p.run([]string{"sh", "-c", "for i in 1 2 3 4 5; do echo $i; done; echo e >&2; trap 'exit 0' TERM; while [ ! -e /go ]; do sleep 0.05; done; echo 6; while [ ! -e /end ]; do sleep 0.05; done; echo 7"})
	two := int64(2)
	p.eventually(10*time.Second, func() error {
		if lines := p.logsOf(&nodev1.LogsRequest{Container: id, Tail: &two}); len(lines) != 2 || lines[1] != "e" {
			return fmt.Errorf("the last lines are %q", lines)
		}
		return nil
	})
	stream, err := p.Logs(t.Context(), &nodev1.LogsRequest{Container: id, Follow: true})
	p.must(err)
	followed := make(chan []string, 1)
	go func() {
		lines, err := readLogs(stream)
		if err != nil {
			t.Error(err)
		}
		followed <- lines
	}()
	p.output(id, "touch", "/go")
	// As kubelet rotates.
	path := p.get(id).GetLogPath()
	p.must(os.Rename(path, path+".20260101-000000"))
	p.must(p.node.Runtime.ReopenContainerLog(t.Context(), id))
	p.output(id, "touch", "/end")
	select {
	case lines := <-followed:
		if slices.Sort(lines); !slices.Equal(lines, []string{"1", "2", "3", "4", "5", "6", "7", "e"}) {
			t.Errorf("followed: %q", lines)
		}
	case <-time.After(pace.Limit(20 * time.Second)):
		t.Fatal("the log of a container that has exited is followed for ever")
	}
	if lines := p.logsOf(&nodev1.LogsRequest{Container: id}); len(lines) != 8 {
		t.Errorf("all: %q", lines)
	}
}

// TestPeopleVolumes: named and anonymous, filled from the image, kept from
// removal.
func TestPeopleVolumes(t *testing.T) {
	p := onPeople(t)
	volume := func(r *nodev1.CreateRequest) {
		r.Volumes = []*nodev1.VolumeMount{{Name: "data", Path: "/etc/secret"}}
	}
	first := p.run([]string{"sh", "-c", "cat /etc/secret/key; echo more > /etc/secret/more"}, named("first"), volume)
	equal(p.env, "code", p.wait(first, ""), 0)
	if lines := p.logsOf(&nodev1.LogsRequest{Container: first}); !slices.Equal(lines, []string{"secret"}) {
		t.Errorf("the volume has not what the image has: %q", lines)
	}
	_, err := p.system.RemoveVolume(t.Context(), &nodev1.RemoveVolumeRequest{Name: "data"})
	refuses(p, "removal of a volume in use", err, `volume "data" is in use by first`)
	second := p.run([]string{"cat", "/etc/secret/more"}, named("second"), volume)
	equal(p.env, "code", p.wait(second, ""), 0)
	if lines := p.logsOf(&nodev1.LogsRequest{Container: second}); !slices.Equal(lines, []string{"more"}) {
		t.Errorf("the volume does not keep its files: %q", lines)
	}
	p.rm(first)
	p.rm(second)
	list, err := p.system.ListVolumes(t.Context(), &nodev1.ListVolumesRequest{})
	p.must(err)
	if len(list.Volumes) != 1 || len(list.Volumes[0].Containers) != 0 {
		t.Errorf("%v", list.Volumes)
	}
	_, err = p.system.RemoveVolume(t.Context(), &nodev1.RemoveVolumeRequest{Name: "data"})
	p.must(err)
	_, err = p.system.RemoveVolume(t.Context(), &nodev1.RemoveVolumeRequest{Name: "data"})
	refuses(p, "removal of no volume", err, `no volume "data"`)
}

// TestPeopleNetworks: members of one network know one another by name, as they
// come, are renamed and go.
func TestPeopleNetworks(t *testing.T) {
	p := onPeople(t)
	in := func(network string, aliases ...string) func(*nodev1.CreateRequest) {
		return func(r *nodev1.CreateRequest) {
			r.Networks = []*nodev1.NetworkMembership{{Network: network, Aliases: aliases}}
		}
	}
	web := p.run(forever, named("web"), in("blue"))
	db := p.run(forever, named("db"), in("blue", "database"))
	p.run(forever, named("stranger"), in("red"))
	knows := func(want bool, name string) {
		p.Helper()
		p.eventually(5*time.Second, func() error {
			hosts, _ := p.output(web, "cat", "/etc/hosts")
			if slices.Contains(strings.Fields(hosts), name) != want {
				return fmt.Errorf("knowing %s is not %v: %s", name, want, hosts)
			}
			return nil
		})
	}
	knows(true, "db")
	knows(true, "database")
	knows(true, "web")
	knows(false, "stranger")
	_, err := p.Rename(t.Context(), &nodev1.RenameRequest{Container: "db", Name: "postgres"})
	p.must(err)
	knows(true, "postgres")
	knows(false, "db")
	_, err = p.Stop(t.Context(), &nodev1.StopRequest{Container: db})
	p.must(err)
	knows(false, "postgres")
	p.begin(db)
	knows(true, "database")
	p.rm(db)
	knows(false, "database")
}

// TestPeopleJoin: two containers in one pod, which goes with the last of them.
func TestPeopleJoin(t *testing.T) {
	p := onPeople(t)
	main := p.run([]string{"probe", "httpd"}, named("main"))
	second := p.run([]string{"sh", "-c", "until wget -qO- 127.0.0.1:8080; do sleep 0.1; done"}, named("second"), func(r *nodev1.CreateRequest) { r.Join = "main" })
	equal(p.env, "code", p.wait(second, ""), 0)
	equal(p.env, "pod", p.get(second).GetPodId(), p.get(main).GetPodId())
	p.rm(main)
	if c := p.get(second); c == nil {
		t.Error("it went with another")
	}
	p.rm(second)
}

// TestPeopleAndKubelet: its containers are seen, named by their pods, and
// protected; it does not see people's.
func TestPeopleAndKubelet(t *testing.T) {
	p := onPeople(t)
	pod := p.runPod("")
	c := p.start(pod, "app", []string{"sh", "-c", "echo hello; exec probe trap"})
	p.logHas(c, "hello")
	mine := p.run(forever, named("mine"))
	ref := pod.config.Metadata.Name + "/app"
	found := p.get(c.id)
	if found == nil || !found.Kubernetes || found.Pod != pod.config.Metadata.Name || found.Namespace != "e2e" || found.State != "running" || !slices.Contains(found.Command, "sh") {
		t.Fatalf("%v", found)
	}
	for _, name := range []string{ref, "e2e/" + ref, c.id, c.id[:20]} {
		if out, code := p.output(name, "echo", "in"); out != "in\n" || code != 0 {
			t.Errorf("exec in %s: %q %d", name, out, code)
		}
	}
	if lines := p.logsOf(&nodev1.LogsRequest{Container: ref}); !slices.Contains(lines, "hello") {
		t.Errorf("its log is %q", lines)
	}
	if d := p.inspected(ref); d["Name"] != "/"+ref {
		t.Errorf("its name is %v", d["Name"])
	}
	for what, call := range map[string]func() error{
		"stop":    func() error { _, err := p.Stop(t.Context(), &nodev1.StopRequest{Container: ref}); return err },
		"kill":    func() error { _, err := p.Kill(t.Context(), &nodev1.KillRequest{Container: ref}); return err },
		"pause":   func() error { _, err := p.Pause(t.Context(), &nodev1.PauseRequest{Container: ref}); return err },
		"restart": func() error { _, err := p.Restart(t.Context(), &nodev1.RestartRequest{Container: ref}); return err },
		"rm":      func() error { _, err := p.Remove(t.Context(), &nodev1.RemoveRequest{Container: ref}); return err },
		"update":  func() error { _, err := p.Update(t.Context(), &nodev1.UpdateRequest{Container: ref}); return err },
		"rename": func() error {
			_, err := p.Rename(t.Context(), &nodev1.RenameRequest{Container: ref, Name: "x"})
			return err
		},
	} {
		refuses(p, what, call(), "belongs to Kubernetes")
	}
	attached, err := p.Attach(t.Context())
	p.must(err)
	p.must(attached.Send(&nodev1.AttachRequest{Open: &nodev1.AttachOpen{Container: ref, Stdout: true}}))
	if m, err := attached.Recv(); err != nil || !m.Ready {
		t.Fatal(m, err)
	}
	p.must(attached.Send(&nodev1.AttachRequest{Signal: "SIGKILL"}))
	_, err = attached.Recv()
	refuses(p, "a signal of a client that is attached", err, "belongs to Kubernetes")
	equal(p.env, "the state after a signal", p.get(c.id).State, "running")
	list, err := p.node.Runtime.ListContainers(t.Context(), nil)
	p.must(err)
	for _, seen := range list {
		if seen.Id == mine {
			t.Error("kubelet sees people's container")
		}
	}
	_, err = p.Stop(t.Context(), &nodev1.StopRequest{Container: ref, Force: true, Timeout: new(int64)})
	p.must(err)
	p.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 10*time.Second)
	_, err = p.Remove(t.Context(), &nodev1.RemoveRequest{Container: ref, Force: true})
	p.must(err)
	if p.get(c.id) != nil {
		t.Error("--force does not remove it")
	}
}

// TestPeopleEvents are remembered, and come as they happen.
func TestPeopleEvents(t *testing.T) {
	p := onPeople(t)
	since := time.Now().UnixNano()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	live, err := p.Events(ctx, &nodev1.EventsRequest{Since: since})
	p.must(err)
	id := p.run([]string{"sh", "-c", "exit 6"}, named("eventful"))
	equal(p.env, "code", p.wait(id, ""), 6)
	_, err = p.Rename(t.Context(), &nodev1.RenameRequest{Container: id, Name: "eventless"})
	p.must(err)
	_, err = p.Remove(t.Context(), &nodev1.RemoveRequest{Container: id})
	p.must(err)
	want := []string{"create", "start", "die", "rename", "destroy"}
	var got []string
	for len(got) < len(want) {
		e, err := live.Recv()
		p.must(err)
		if e.Id != id {
			continue
		}
		got = append(got, e.Action)
		if e.Action == "die" && (e.Attributes["exitCode"] != "6" || e.Name != "eventful" || e.Type != "container") {
			t.Errorf("%v", e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	past, err := p.Events(t.Context(), &nodev1.EventsRequest{Since: since, Until: time.Now().UnixNano()})
	p.must(err)
	var remembered []string
	for {
		e, err := past.Recv()
		if err != nil {
			break
		}
		if e.Id == id {
			remembered = append(remembered, e.Action)
		}
	}
	if !slices.Equal(remembered, want) {
		t.Errorf("remembered: %q", remembered)
	}
}

// TestPeopleRecordsOfNobody: an unfinished create and a container without a
// record are gone when the daemon is back.
func TestPeopleRecordsOfNobody(t *testing.T) {
	e := ownNode(t, node.Options{Number: 73})
	p := peopleOf(e)
	id := p.run(forever, named("orphan"))
	kept := p.run(forever, named("kept"))
	p.must(e.node.Kill())
	records := filepath.Join(e.node.Root, "node", "containers")
	p.must(os.Remove(filepath.Join(records, id+".json")))
	p.must(os.WriteFile(filepath.Join(records, strings.Repeat("ab", 32)+".json"), []byte("{}"), 0o600))
	p.must(os.WriteFile(filepath.Join(records, ".tmp-x"), nil, 0o600))
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	p.vanishes(id)
	p.becomes(kept, "running")
	left, err := os.ReadDir(records)
	p.must(err)
	if len(left) != 1 || left[0].Name() != kept+".json" {
		t.Errorf("%v", left)
	}
	if _, err := e.node.Raw.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); err == nil {
		t.Error(errors.New("the container without a record is still there"))
	}
}
