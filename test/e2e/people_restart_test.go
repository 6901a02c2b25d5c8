package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// lives writes a line into its log and into its file system in each life.
var lives = []string{"sh", "-c", "echo life; echo x >> /lives; trap 'exit 5' TERM; while :; do sleep 0.05; done"}

// lived counts the lives that a container remembers.
func (p *people) lived(id string) int {
	p.Helper()
	out, code := p.output(id, "cat", "/lives")
	equal(p.env, "code", code, 0)
	return strings.Count(out, "x")
}

func (p *people) end(id string) {
	p.Helper()
	_, err := p.Stop(p.Context(), &nodev1.StopRequest{Container: id})
	p.must(err)
}

// TestPeopleRestartInPlace: the same id, files and log, on every runtime, and with
// a pod that was stopped meanwhile.
func TestPeopleRestartInPlace(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := peopleOf(e)
		id := p.run(lives, named("lives-"+handler), func(r *nodev1.CreateRequest) { r.Handler = handler })
		pod := p.get(id).PodId
		for life := 1; life < 4; life++ {
			p.eventually(10*time.Second, func() error {
				if got := p.lived(id); got != life {
					return fmt.Errorf("%d lives", got)
				}
				return nil
			})
			if life == 2 {
				p.must(p.node.Runtime.StopPodSandbox(t.Context(), pod))
			} else {
				p.end(id)
			}
			if c := p.get(id); c.State != "exited" {
				t.Fatalf("%v", c)
			}
			p.begin(id)
			c := p.becomes(id, "running")
			equal(e, "pod", c.PodId, pod)
			if len(c.Ips) == 0 {
				t.Error("no address")
			}
			if out, _ := p.output(id, "ip", "-4", "-o", "addr", "show", "eth0"); len(c.Ips) > 0 && !strings.Contains(out, c.Ips[0]) {
				t.Errorf("its address is %v, and inside:\n%s", c.Ips, out)
			}
		}
		equal(e, "lines in the log", len(p.logsOf(&nodev1.LogsRequest{Container: id})), 4)
	})
}

// TestPeopleRestartKilled: the daemon or the monitor is killed at the moments of
// a restart; the container is whole before and after, and can be started.
func TestPeopleRestartKilled(t *testing.T) {
	p := peopleOf(ownNode(t, node.Options{Number: 61, GateRuntime: true, GateNetwork: true}))
	id := p.run(lives, named("killed"))
	pod := p.get(id).PodId
	done := 1 // lives
	p.eventually(10*time.Second, func() error {
		if p.lived(id) != done {
			return fmt.Errorf("no life yet")
		}
		return nil
	})
	for _, gate := range []string{"", "create", "start", "cni-ADD", "cni-DEL"} {
		for _, victim := range []string{"daemon", "monitor"} {
			t.Run(victim+" at "+gate, func(t *testing.T) {
				p := peopleOf(p.in(t))
				p.reconnect()
				p.end(id)
				if strings.HasPrefix(gate, "cni") && gate != "cni-DEL" {
					p.must(p.node.Runtime.StopPodSandbox(t.Context(), pod))
				}
				var held *node.Gate
				if gate != "" {
					var err error
					held, err = p.node.CloseGate(gate)
					p.must(err)
				}
				call := make(chan error, 1)
				client := p.ContainersClient
				go func() {
					ctx := context.WithoutCancel(t.Context())
					if gate == "cni-DEL" {
						_ = p.node.Runtime.StopPodSandbox(ctx, pod) // the daemon may be gone
					}
					_, err := client.Start(ctx, &nodev1.StartRequest{Container: id})
					call <- err
				}()
				p.awaitKill(held, 20*time.Millisecond, call)
				if victim == "daemon" {
					p.must(p.node.Kill())
				} else {
					p.must(p.node.KillMonitor())
				}
				if held != nil {
					p.must(held.Open())
				}
				<-call
				if victim == "daemon" {
					p.must(p.node.Restart(t.Context()))
				}
				p.reconnect()
				p.begin(id)
				p.becomes(id, "running")
				p.eventually(10*time.Second, func() error {
					if now := p.lived(id); now != done+1 && now != done+2 {
						return fmt.Errorf("%d lives, were %d", now, done)
					}
					return nil
				})
				done = p.lived(id)
				pods, err := p.node.Raw.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
					LabelSelector: map[string]string{"io.cri-node.owner": "people"},
				}})
				p.must(err)
				equal(p.env, "pods", len(pods.Items), 1)
			})
		}
	}
	p.reconnect()
	p.rm(id)
}

// TestPeopleAfterReboot: what a person has is there after a reboot, and starts
// again with its files.
func TestPeopleAfterReboot(t *testing.T) {
	p := peopleOf(ownNode(t, node.Options{Number: 62}))
	manual := p.run(lives, named("manual"))
	always := p.run(lives, named("always"), restarting("always", 0))
	paused := p.run(lives, named("paused"))
	for _, id := range []string{manual, always} {
		p.eventually(10*time.Second, func() error {
			if p.lived(id) != 1 {
				return fmt.Errorf("no life yet")
			}
			return nil
		})
	}
	_, err := p.Pause(t.Context(), &nodev1.PauseRequest{Container: paused})
	p.must(err)
	p.must(p.node.Reboot(t.Context()))
	p.must(p.node.Restart(t.Context()))
	p.reconnect()
	p.becomes(always, "running")
	c := p.becomes(manual, "exited")
	if c.ExitCode == 0 {
		t.Errorf("%v", c)
	}
	p.becomes(paused, "exited")
	p.begin(manual)
	p.begin(paused)
	for _, id := range []string{manual, always} {
		p.eventually(10*time.Second, func() error {
			if got := p.lived(id); got != 2 {
				return fmt.Errorf("%d lives", got)
			}
			return nil
		})
		if c := p.get(id); c.State != "running" || len(c.Ips) == 0 {
			t.Errorf("%v", c)
		}
	}
	for _, id := range []string{manual, always, paused} {
		p.rm(id)
	}
}

// TestPeoplePaused: a paused container stands still over a restart of the daemon,
// and can be stopped, killed and removed.
func TestPeoplePaused(t *testing.T) {
	p := peopleOf(ownNode(t, node.Options{Number: 63}))
	pause := func(id string) {
		t.Helper()
		_, err := p.Pause(t.Context(), &nodev1.PauseRequest{Container: id})
		p.must(err)
		equal(p.env, "state", p.get(id).State, "paused")
	}
	id := p.run(lives, named("still"))
	pause(id)
	p.must(p.node.Kill())
	p.must(p.node.Restart(t.Context()))
	p.reconnect()
	equal(p.env, "state after a restart", p.get(id).State, "paused")
	// A probe of kubelet's would not hang in it.
	if _, err := p.node.Raw.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 5}); err == nil {
		t.Error("executed in a paused container")
	}
	_, err := p.Unpause(t.Context(), &nodev1.UnpauseRequest{Container: id})
	p.must(err)
	equal(p.env, "lives", p.lived(id), 1)
	pause(id)
	p.end(id)
	equal(p.env, "exit code", p.get(id).ExitCode, 5)
	p.begin(id)
	p.becomes(id, "running")
	pause(id)
	p.rm(id)
	other := p.run(lives, named("other"))
	pause(other)
	p.must(p.node.Runtime.StopPodSandbox(t.Context(), p.get(other).PodId))
	equal(p.env, "exit code", p.get(other).ExitCode, 137)
	p.rm(other)
}

// TestPeopleExtras: what docker's flags say and CRI's messages do not.
func TestPeopleExtras(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := peopleOf(e)
		id := p.run([]string{"sh", "-c", "trap 'exit 6' USR1; (sleep 0.1 & exit 0); while :; do sleep 0.05; done"}, named("extras-"+handler), func(r *nodev1.CreateRequest) {
			r.Handler, r.Init, r.StopSignal, r.ShmSize = handler, true, "USR1", 8<<20
			r.Tmpfs = []*nodev1.Tmpfs{{Path: "/scratch", Options: []string{"size=1m", "exec"}}}
			r.Ulimits = []*nodev1.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}}
			r.ExtraHosts = []string{"more:10.9.8.7", "machine:host-gateway"}
		})
		for range 2 {
			for _, tc := range []struct{ command, want string }{
				{"cat /proc/1/cmdline | tr '\\0' ' '", "/dev/cri-node-init sh -c"},
				{"ulimit -Sn; ulimit -Hn", "123\n456\n"},
				{"mount | grep ' /scratch '", "tmpfs"},
				{"df -k /dev/shm | tail -1", "8192"},
				{"cp /bin/busybox /scratch/; [ -e /scratch/true ] || ln -s busybox /scratch/true; /scratch/true && echo executed", ""},
				{"cat /etc/hosts", "10.9.8.7\tmore\n"},
				{"grep machine /etc/hosts && ip route | grep default", "\tmachine\n"},
			} {
				out, _ := p.output(id, "sh", "-c", tc.command)
				contains(e, tc.command, out, tc.want)
			}
			p.eventually(5*time.Second, func() error {
				if out, _ := p.output(id, "ps", "-o", "stat,args"); strings.Contains(out, "Z") {
					return fmt.Errorf("zombies:\n%s", out)
				}
				return nil
			})
			p.end(id)
			equal(e, "exit code", p.get(id).ExitCode, 6)
			p.begin(id)
		}
		alone := p.run(forever, named("alone-"+handler), func(r *nodev1.CreateRequest) { r.Handler, r.NoNetwork = handler, true })
		if out, _ := p.output(alone, "ip", "-o", "link"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "lo:") {
			t.Errorf("its links:\n%s", out)
		}
	})
}

// TestPeopleRestartTold: to a plugin a container that is started again is another
// one, and so is a pod that comes back.
func TestPeopleRestartTold(t *testing.T) {
	p := onPeople(t)
	plugin := p.plugin("10", "restarts")
	id := p.run(forever, named("told"))
	pod := p.get(id).PodId
	for range 3 {
		_, err := p.Restart(t.Context(), &nodev1.RestartRequest{Container: id})
		p.must(err)
	}
	p.must(p.node.Runtime.StopPodSandbox(t.Context(), pod))
	p.begin(id)
	p.rm(id)
	var want []string
	for range 5 {
		want = append(want, "create", "created", "start", "started", "stop", "remove")
	}
	p.wants(plugin, id, want...)
	told := plugin.told(pod)
	if len(told) < 6 || len(told)%3 != 0 {
		t.Errorf("of the pod: %v", told)
	}
	for i, event := range told {
		equal(p.env, "event of the pod", event, []string{"run", "stop", "remove"}[i%3])
	}
}

// TestPeopleRestartNamespaces: pods with a user namespace, or with one pid
// namespace, come back with them, also after a reboot.
func TestPeopleRestartNamespaces(t *testing.T) {
	p := peopleOf(ownNode(t, node.Options{Number: 64}))
	var ids []string
	for name, o := range map[string]*runtimeapi.NamespaceOption{
		"mapped": {Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: &runtimeapi.UserNamespace{
			Mode: runtimeapi.NamespaceMode_POD, Uids: []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}}, Gids: []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}},
		}},
		"shared": {Pid: runtimeapi.NamespaceMode_POD},
	} {
		ids = append(ids, p.run(lives, named(name), func(r *nodev1.CreateRequest) {
			r.Pod = &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o}}}
			r.Container.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: o}}
		}))
	}
	for life := 1; life <= 4; life++ {
		for _, id := range ids {
			p.becomes(id, "running")
			p.eventually(10*time.Second, func() error {
				if got := p.lived(id); got != life {
					return fmt.Errorf("%d lives, not %d", got, life)
				}
				return nil
			})
			name := p.get(id).Name
			if out, _ := p.output(id, "cat", "/proc/self/uid_map"); name == "mapped" && !strings.Contains(out, "300000") {
				t.Errorf("its ids are %q", out)
			}
			if out, _ := p.output(id, "cat", "/proc/1/cmdline"); name == "shared" && strings.Contains(out, "life") {
				t.Errorf("process 1 is %q", out)
			}
			if out, _ := p.output(id, "stat", "-c", "%u", "/lives", "/etc/hosts"); out != "0\n0\n" {
				t.Errorf("owners of its files are %q", out)
			}
		}
		switch life {
		case 1:
			for _, id := range ids {
				p.end(id)
			}
		case 2:
			for _, id := range ids {
				p.must(p.node.Runtime.StopPodSandbox(t.Context(), p.get(id).PodId))
			}
		case 3:
			p.must(p.node.Reboot(t.Context()))
			p.must(p.node.Restart(t.Context()))
			p.reconnect()
		}
		for _, id := range ids {
			if life < 4 {
				p.begin(id)
			} else {
				p.rm(id)
			}
		}
	}
}
