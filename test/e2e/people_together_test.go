package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPeopleRestartTogether: containers of one pod that are started at a time get
// one pod back; and one that is stopped at the same time is stopped or running,
// and nothing between.
func TestPeopleRestartTogether(t *testing.T) {
	p := onPeople(t)
	a := p.run(forever, named("together-a"))
	b := p.run(forever, named("together-b"), func(r *nodev1.CreateRequest) { r.Join = "together-a" })
	pod := p.get(a).PodId
	equal(p.env, "pod", p.get(b).PodId, pod)
	for range 4 {
		p.must(p.node.Runtime.StopPodSandbox(t.Context(), pod))
		var both sync.WaitGroup
		for _, id := range []string{a, b, a} {
			both.Go(func() {
				if _, err := p.Start(t.Context(), &nodev1.StartRequest{Container: id}); err != nil {
					t.Errorf("start: %v", err)
				}
			})
		}
		both.Wait()
		first, second := p.get(a), p.get(b)
		if first.State != "running" || second.State != "running" || len(first.Ips) == 0 || !slices.Equal(first.Ips, second.Ips) {
			t.Fatalf("%v\n%v", first, second)
		}
	}
	for i := range 12 {
		if i%2 == 0 {
			p.must(p.node.Runtime.StopPodSandbox(t.Context(), pod))
		}
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = p.Start(t.Context(), &nodev1.StartRequest{Container: a}) // the stop may win
		})
		both.Go(func() {
			time.Sleep(time.Duration(i) * 8 * time.Millisecond)
			if err := p.node.Runtime.StopPodSandbox(t.Context(), pod); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
		both.Wait()
		r, err := p.node.Raw.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
		p.must(err)
		ready := r.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY
		if state := p.get(a).State; state == "running" && !ready {
			t.Errorf("round %d: it runs in a pod that is %v", i, r.Status.State)
		}
	}
	p.begin(a)
	p.begin(b)
	// A removal in the middle of a restart wins.
	p.must(p.node.Runtime.StopPodSandbox(t.Context(), pod))
	started := make(chan error, 1)
	go func() {
		_, err := p.Start(context.WithoutCancel(t.Context()), &nodev1.StartRequest{Container: b})
		started <- err
	}()
	p.must(p.node.Runtime.RemovePodSandbox(t.Context(), pod))
	<-started
	p.eventually(10*time.Second, func() error {
		list, err := p.node.Raw.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: pod}})
		if err != nil || len(list.Containers) > 0 {
			return fmt.Errorf("%d containers are left, %w", len(list.GetContainers()), err)
		}
		return nil
	})
}

// TestPeopleInitTerminal: with an init the command has the terminal, and its
// signals.
func TestPeopleInitTerminal(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := peopleOf(e)
		id := p.make(request([]string{"sh", "-c", "tty; exec sleep 1000"}, named("init-tty-"+handler), func(r *nodev1.CreateRequest) {
			r.Handler, r.Init, r.Container.Stdin, r.Container.Tty = handler, true, true, true
			r.Container.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				RunAsUser:        &runtimeapi.Int64Value{Value: 1234},
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			}}
		}))
		stream, err := p.Attach(e.Context())
		p.must(err)
		p.must(stream.Send(&nodev1.AttachRequest{Open: &nodev1.AttachOpen{Container: id, Stdin: true, Stdout: true, Start: true}}))
		m, err := stream.Recv()
		p.must(err)
		for !strings.Contains(string(m.Stdout), "/dev/") {
			m, err = stream.Recv()
			p.must(err)
		}
		// Interactive programs put themselves in the foreground, and the key ends them.
		p.must(stream.Send(&nodev1.AttachRequest{Stdin: []byte("\x03")}))
		_, exit, err := readStream(stream)
		p.must(err)
		equal(e, "exit code", exit.GetCode(), 130)
	})
}

// TestPeopleFilesAreSynced: what a database of a person's syncs is synced; nobody
// waits for the disk in a pod of kubelet's.
func TestPeopleFilesAreSynced(t *testing.T) {
	p := onPeople(t)
	id := p.run(forever, named("synced"))
	if out, _ := p.output(id, "grep", " / ", "/proc/mounts"); !strings.Contains(out, "overlay") || strings.Contains(out, "volatile") {
		t.Errorf("the root of a person's container is %q", out)
	}
	pod := p.runPod("")
	c := p.start(pod, "c", []string{"sleep", "1000"})
	if out := p.exec(c.id, "grep", " / ", "/proc/mounts"); !strings.Contains(out, "volatile") {
		t.Logf("this kernel has no volatile overlay: %q", out)
	}
}
